"""The shape of a stage, and the order of stages: finished ones are skipped, the first unfinished one runs.

A stage owns ``<run folder>/<name>/``: ``weights.safetensors`` (what it trained), ``facts.json`` (written last, so its
presence means finished) and ``log.json`` (its curve). Knows nothing of what a stage does inside.
"""

import logging
import shutil
import time
from collections.abc import Callable, Sequence, Sized
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch

from recbole_think.artifacts import (
    differing,
    digest,
    load_tensors,
    read_json,
    require_same,
    save_tensors,
    write_json,
    write_whole,
)
from recbole_think.corpus.histories import Histories
from recbole_think.itemic.vocabulary import Vocabulary

log = logging.getLogger(__name__)
BEST, CHECKPOINTS = "best.safetensors", "checkpoints"  # needed until a stage has finished


@dataclass
class Context:
    """What every stage is given."""

    folder: Path  # the run folder
    model: Any  # the language model being taught, a Hugging Face causal LM with itemic rows
    vocabulary: Vocabulary
    histories: Histories  # training histories
    validate: Callable[[int, bool], float]  # users (0 = all), after thinking or not -> valid_metric, bigger is better
    seed: int
    facts: dict[str, Any]  # what the weights depend on besides the stage's own options
    scalar: Callable[[str, float, int], None]  # name, value, step -> TensorBoard
    show_progress: bool = True
    perplexity: Callable[[bool], float] | None = None  # of held-out general text; True = among words alone
    stages_from: Path | None = None  # a run folder whose finished stages are taken where they match
    sharding: str = "none"  # see sharding.py


@dataclass
class Outcome:
    """What a stage reports."""

    loss: float
    tokens: int  # real (unpadded) tokens read in training
    steps: int
    best_score: float
    curve: list[dict[str, float]]
    figures: dict[str, Any] = field(default_factory=dict)  # what a stage measures besides


class Stage(Protocol):
    """One step of the training recipe.

    One that depends on more than its options and what all depend on says so in ``leans_on``, a dict of facts.
    """

    name: str
    options: Any

    def learning(self, model: Any) -> AbstractContextManager:
        """Set what learns; the context returned puts adapters away again."""

    def plan(self, context: Context) -> Sized:
        """Plan every optimizer step's batch."""

    def run(self, context: Context) -> Outcome:
        """Train ``context.model`` in place, ending with the weights validation chose."""


def run_stages(stages: Sequence[Stage], context: Context) -> list[dict[str, Any]]:
    """Run the stages in order; each builds on the weights of the one before.

    Returns:
        One row per stage: name, seconds, tokens, loss, best validation score, perplexity of general text before and
        after, what the stage measured besides, and whether it was skipped as finished.
    """
    rows: list[dict[str, Any]] = []
    parent = digest(context.facts)
    for stage in stages:
        # the parent's digest last: a refusal should name the fact itself where it can
        leans_on = getattr(stage, "leans_on", {})
        wanted = {"stage": stage.name, "options": told(stage.options), **leans_on, **context.facts, "parent": parent}
        folder = context.folder / stage.name
        if context.stages_from is not None:
            _taken(context.stages_from / stage.name, folder, wanted)
        row = _finished(folder, wanted, context.model)
        if row is None:
            log.info("stage %s: begins", stage.name)
            before = rows[-1]["perplexity"] if rows else _perplexity(context, words_alone=True)
            start = time.perf_counter()
            outcome = stage.run(context)
            seconds = time.perf_counter() - start
            language = {"perplexity_before": before, "perplexity": _perplexity(context, words_alone=False)}
            row = _keep(folder, wanted, context.model, outcome, {"seconds": round(seconds, 1), **language})
        else:
            log.info("stage %s: finished before, weights loaded", stage.name)
        rows.append(row)
        parent = row["digest"]
    return rows


def told(options: Any) -> dict[str, Any]:
    """Options as facts: all of them, but for those of ``later`` that are 0."""
    later = getattr(options, "later", ())
    return {name: value for name, value in asdict(options).items() if value or name not in later}


def trainable(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Return the parameters that learn, by name; tied ones once."""
    return {name: value for name, value in model.named_parameters() if value.requires_grad}


def load_weights(model: torch.nn.Module, tensors: dict[str, torch.Tensor]) -> None:
    """Put saved parameters back, in place, and freeze nothing."""
    own = dict(model.named_parameters())
    with torch.no_grad():
        for name, value in tensors.items():
            own[name].copy_(value)


def _finished(folder: Path, wanted: dict[str, Any], model) -> dict[str, Any] | None:
    """Load the weights of a stage that finished with the same facts, and return its row."""
    if not (folder / "facts.json").is_file():
        return None
    facts = read_json(folder / "facts.json")
    require_same(facts["made_from"], wanted, folder)
    restore(folder, model)
    _drop_unfinished(folder)  # a kill between the facts and this leaves it behind
    return {**facts["row"], "skipped": True}


def _taken(given: Path, folder: Path, wanted: dict[str, Any]) -> None:
    """Copy a stage that another run finished with the very same facts; the facts come last, as when it was made."""
    facts = given / "facts.json"
    if (folder / "facts.json").is_file() or not facts.is_file():
        return
    made_from = read_json(facts)["made_from"]
    if digest(made_from) != digest(wanted):
        others = ", ".join([*differing(made_from, wanted), *sorted(set(made_from) - set(wanted))])
        log.warning("stage %s: not taken from %s, where other than here: %s", wanted["stage"], given.parent, others)
        return
    log.info("stage %s: taken from %s", wanted["stage"], given.parent)
    folder.mkdir(parents=True, exist_ok=True)
    for path in sorted(given.iterdir(), key=lambda path: path == facts):
        if path.is_file():
            write_whole(folder / path.name, partial(shutil.copyfile, path))


def _perplexity(context: Context, words_alone: bool) -> float | None:
    context.model.eval()
    return context.perplexity(words_alone) if context.perplexity else None


def restore(folder: Path, model) -> None:
    """Load the weights of a finished stage."""
    load_weights(model, load_tensors(folder / "weights.safetensors"))


def _drop_unfinished(folder: Path) -> None:
    """Delete what a stage needs only until it has finished."""
    shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)
    (folder / BEST).unlink(missing_ok=True)


def _keep(folder: Path, wanted: dict[str, Any], model, outcome: Outcome, measured: dict[str, Any]) -> dict[str, Any]:
    save_tensors(folder / "weights.safetensors", trainable(model))
    row = {
        "stage": wanted["stage"],
        **measured,
        "tokens": outcome.tokens,
        "steps": outcome.steps,
        "loss": outcome.loss,
        "best_score": outcome.best_score,
        "figures": outcome.figures,
        "digest": digest({**wanted, "loss": outcome.loss}),
    }
    write_json(folder / "log.json", {"curve": outcome.curve})
    write_json(folder / "facts.json", {"made_from": wanted, "row": row})
    _drop_unfinished(folder)
    return row
