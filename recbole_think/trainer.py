"""ThinkTrainer at RecBole's seam: runs the stages in order instead of epochs, and keeps the evaluator RecBole's."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from recbole.trainer import Trainer

from recbole_think import processes
from recbole_think.corpus.histories import targets
from recbole_think.recipe import Recipe
from recbole_think.shards import ranked_ahead
from recbole_think.stages.stage import Context, run_stages

if TYPE_CHECKING:
    from recbole_think.stages.held_out import HeldOut

log = logging.getLogger(__name__)


@contextmanager
def answering(model, think: bool) -> Iterator[None]:
    """Within the block a model answers after thinking, or directly, whatever ``decode.think`` says.

    So the weights a stage keeps do not depend on that switch, and a twin without thinking is the very same model.
    """
    before, model.judged = model.judged, think
    try:
        yield
    finally:
        model.judged = before


class ThinkTrainer(Trainer):
    """RecBole's trainer for a model that is taught in stages; each stage owns its optimizer and checkpoints."""

    def __init__(self, config, model):
        super().__init__(config, model)
        self.stage_rows: list[dict] = []
        self.parents: dict = {}
        self.valid_data: Any = None
        self.recipe = Recipe(config, model, self._held_out)
        self._sample: tuple[int, object] | None = None

    @property
    def train_tokens(self) -> int:
        """Real tokens read by all stages."""
        return sum(row["tokens"] for row in self.stage_rows)

    def _build_optimizer(self, **kwargs):
        return None  # each stage has its own

    def _held_out(self, choosing: int, measured: int) -> HeldOut:
        """What measures the reward on validation users that do not choose the checkpoint (if there are any others)."""
        from recbole_think.stages.held_out import mean_rewards

        model, options, rewards = self.model, self.model.options["enhancement"], self.model.options["rewards"]
        loader = self.valid_data
        dice = np.random.default_rng([self.config["seed"], 8000])
        others = np.setdiff1d(np.arange(len(loader.dataset)), self._chosen(len(loader.dataset), choosing))
        rows = np.sort(dice.permutation(others if len(others) else np.arange(len(loader.dataset)))[:measured])
        asked = model.asked(loader.collate_fn(rows)[0])
        wanted = targets(loader.dataset)[1][rows]
        decode = replace(
            model.options["decode"], thoughts=options.held_out_rationales, temperature=options.temperature,
            thought_beams=options.beams,
        )  # fmt: skip

        def measure(language_model) -> dict[str, np.ndarray]:
            language_model.eval()
            thought = model.think(asked.prompts, lambda places: model.mask_of(asked.users[places]), decode, wanted)
            return mean_rewards(thought, wanted, model.codes.table, decode, rewards)

        return measure

    def fit(self, train_data, valid_data=None, verbose=True, saved=True, show_progress=False, callback_fn=None):
        """Run the stages; each ends with the weights validation chose.

        Returns:
            Best validation score and None (the full validation result comes from evaluating the restored model).
        """
        self.eval_collector.data_collect(train_data)
        self.valid_data = valid_data
        self.stage_rows = run_stages(self.recipe.stages(), self.context(valid_data, show_progress))
        self.parents = {row["stage"]: row["digest"] for row in self.stage_rows}
        self.best_valid_score = self.stage_rows[-1]["best_score"] if self.stage_rows else float("nan")
        self.model.eval()
        return self.best_valid_score, None

    def _told(self, name: str, value: float, step: int) -> None:
        """Tell TensorBoard, and Weights & Biases where RecBole's ``log_wandb`` asks for it: the first process does."""
        if processes.number():
            return
        self.tensorboard.add_scalar(name, value, step)
        self.wandblogger.log_metrics({name: value, "train_step": step}, head="")

    def context(self, valid_data, show_progress: bool) -> Context:
        """What every stage is given."""
        model, options = self.model, self.model.options
        return Context(
            folder=Path(self.config["run_folder"]),
            model=model.language_model,
            vocabulary=model.vocabulary,
            histories=self.recipe.taught,
            perplexity=self.recipe.perplexity,
            validate=lambda users, think: self._score(self._sampled(valid_data, users), think),
            seed=self.config["seed"],
            facts={
                "data_fingerprint": model.fingerprint,
                "seed": self.config["seed"],
                **({"withheld": "last training events"} if self.recipe.withholds else {}),
                **{name: asdict(options[name]) for name in ("itemic", "backbone", "prompts", "alignment")},
            },
            scalar=self._told,
            show_progress=show_progress,
            stages_from=Path(self.config["stages_from"]) if self.config["stages_from"] else None,
            sharding=self.config["sharding"],
        )

    def restore_best(self) -> None:
        """Nothing to do: ``fit`` ends with the chosen weights in place."""

    def _score(self, loader, think: bool) -> float:
        with answering(self.model, think), ranked_ahead(self.model, loader):
            score, _ = self._valid_epoch(loader)
        self.eval_collector.forget()
        return score if self.valid_metric_bigger else -score

    def _sampled(self, loader, users: int):
        """A loader over a fixed sample of validation users (all of them for 0)."""
        dataset = loader.dataset
        if not users or users >= len(dataset):
            return loader
        if self._sample is None or self._sample[0] != users:
            part = dataset.copy(dataset.inter_feat[torch.from_numpy(self._chosen(len(dataset), users))])
            self._sample = users, type(loader)(self.config, part, loader._sampler, shuffle=False)
        return self._sample[1]

    def _chosen(self, count: int, users: int) -> np.ndarray:
        """Rows of the sample of validation users, out of ``count``; all of them for 0."""
        if not users or users >= count:
            return np.arange(count)
        return np.sort(np.random.default_rng(self.config["seed"]).choice(count, users, replace=False))
