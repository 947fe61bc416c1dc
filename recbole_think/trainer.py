"""ThinkTrainer at RecBole's seam: runs the stages in order instead of epochs, and keeps the evaluator RecBole's."""

import logging
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from recbole.trainer import Trainer

from recbole_think.stages.stage import Context, run_stages

log = logging.getLogger(__name__)


class ThinkTrainer(Trainer):
    """RecBole's trainer for a model that is taught in stages; each stage owns its optimizer and checkpoints."""

    def __init__(self, config, model):
        super().__init__(config, model)
        self.stage_rows: list[dict] = []
        self.parents: dict = {}
        self._sample: tuple[int, object] | None = None

    @property
    def train_tokens(self) -> int:
        """Real tokens read by all stages."""
        return sum(row["tokens"] for row in self.stage_rows)

    def _build_optimizer(self, **kwargs):
        return None  # each stage has its own

    def stages(self):
        """The recipe, in order."""
        from recbole_think.stages.recommendation import Recommendation

        options = self.model.options
        known = {"recommendation": Recommendation(options["recommendation"], options["prompts"].max_history)}
        return [stage for name, stage in known.items() if name in self.config["stages"]]

    def fit(self, train_data, valid_data=None, verbose=True, saved=True, show_progress=False, callback_fn=None):
        """Run the stages; each ends with the weights validation chose.

        Returns:
            Best validation score and None (the full validation result comes from evaluating the restored model).
        """
        self.eval_collector.data_collect(train_data)
        model, options = self.model, self.model.options
        context = Context(
            folder=Path(self.config["run_folder"]),
            model=model.language_model,
            vocabulary=model.vocabulary,
            histories=model.histories,
            validate=lambda users: self._score(self._sampled(valid_data, users)),
            seed=self.config["seed"],
            facts={
                "data_fingerprint": model.fingerprint,
                "seed": self.config["seed"],
                **{name: asdict(options[name]) for name in ("itemic", "backbone", "prompts")},
            },
            scalar=self.tensorboard.add_scalar,
            show_progress=show_progress,
        )
        self.stage_rows = run_stages(self.stages(), context)
        self.parents = {row["stage"]: row["digest"] for row in self.stage_rows}
        self.best_valid_score = self.stage_rows[-1]["best_score"] if self.stage_rows else float("nan")
        model.eval()
        return self.best_valid_score, None

    def restore_best(self) -> None:
        """Nothing to do: ``fit`` ends with the chosen weights in place."""

    def _score(self, loader) -> float:
        score, _ = self._valid_epoch(loader)
        self.eval_collector.forget()
        return score if self.valid_metric_bigger else -score

    def _sampled(self, loader, users: int):
        """A loader over a fixed sample of validation users (all of them for 0)."""
        dataset = loader.dataset
        if not users or users >= len(dataset):
            return loader
        if self._sample is None or self._sample[0] != users:
            chosen = np.random.default_rng(self.config["seed"]).choice(len(dataset), users, replace=False)
            part = dataset.copy(dataset.inter_feat[torch.from_numpy(np.sort(chosen))])
            self._sample = users, type(loader)(self.config, part, loader._sampler, shuffle=False)
        return self._sample[1]
