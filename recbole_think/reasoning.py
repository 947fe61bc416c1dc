"""Thinking in a finished run: measured by the instruments, and shown for the users that are shown.

Takes RecBole's test loader and a trained OneRecThink, and gives what goes into metrics.json under ``"reasoning"``.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from recbole_think.artifacts import read_json, write_json
from recbole_think.corpus.histories import Histories, targets
from recbole_think.decoding.engine import OURS
from recbole_think.evaluation import SAMPLES
from recbole_think.instruments import Sample, measure

KEPT = "evaluation/reasoning.json"


def thinks(model: Any) -> bool:
    """Whether the lists of a model are made after thinking."""
    return hasattr(model, "language_model") and model.decode.think


def measured(trainer: Any, loader: Any, mask: Histories | None, made_from: dict[str, str]) -> dict[str, Any] | None:
    """Measure thinking on a fixed sample of users; kept in the run folder once it is done.

    Args:
        trainer: a trained ``ThinkTrainer``, or one of another model.
        loader: test loader.
        mask: items that may not be recommended.
        made_from: digests of weights and data.

    Returns:
        What ``instruments.measure`` gives, ``training_leakage_rate`` and ``thoughts`` (what was thought about
        each of the first users); None for a model that does not think.
    """
    model, path = trainer.model, Path(KEPT)
    if not thinks(model):
        return None
    kept = read_json(path) if path.is_file() else {}
    if kept.get("made_from") == made_from:
        return kept["reasoning"]
    model.item_mask = mask
    rows, config = _rows(len(loader.dataset), model.options["instruments"].users, model.seed), trainer.config
    sample = _sample(model, loader, rows)
    names = [name.lower() for name in config["metrics"] if name.lower() in ("recall", "ndcg", "mrr")]
    decode = replace(model.options["decode"], engine=OURS)  # twins by one engine, and that with targets scored
    found = measure(model.ranker, sample, decode, model.dtype(), config["topk"], model.seed, names)
    stage = next((row for row in trainer.stage_rows if row["stage"] == "activation"), None)
    found["training_leakage_rate"] = stage["figures"]["training_leakage_rate"] if stage else None
    found["thoughts"] = shown(model, loader)
    write_json(path, {"made_from": made_from, "reasoning": found})
    return found


def shown(model: Any, loader: Any) -> list[list[str]]:
    """What was thought about each of the first users of a loader, items by title."""
    rows = np.arange(min(SAMPLES, len(loader.dataset)))
    return model.thoughts(_sample(model, loader, rows).histories)


def _rows(count: int, users: int, seed: int) -> np.ndarray:
    if not users or users >= count:
        return np.arange(count)
    return np.sort(np.random.default_rng([seed, 9500]).choice(count, users, replace=False))


def _sample(model: Any, loader: Any, rows: np.ndarray) -> Sample:
    interaction = loader.collate_fn(rows)[0]
    asked = model.asked(interaction)
    return Sample(
        asked.prompts, asked.histories, targets(loader.dataset)[1][rows], lambda some: model.mask_of(asked.users[some])
    )
