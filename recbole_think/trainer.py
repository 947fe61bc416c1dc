"""ThinkTrainer at RecBole's seam: runs the stages in order instead of epochs, and keeps the evaluator RecBole's."""

from __future__ import annotations

import logging
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from recbole.trainer import Trainer

from recbole_think.prompts.options import OWN
from recbole_think.shards import ranked_ahead
from recbole_think.stages.stage import Context, Stage, run_stages

if TYPE_CHECKING:
    from recbole_think.prompts.material import Material

log = logging.getLogger(__name__)


class ThinkTrainer(Trainer):
    """RecBole's trainer for a model that is taught in stages; each stage owns its optimizer and checkpoints."""

    def __init__(self, config, model):
        super().__init__(config, model)
        self.stage_rows: list[dict] = []
        self.parents: dict = {}
        self.general: list | None = None  # general text, where it is known already
        self._material: Material | None = None
        self._sample: tuple[int, object] | None = None

    @property
    def train_tokens(self) -> int:
        """Real tokens read by all stages."""
        return sum(row["tokens"] for row in self.stage_rows)

    def _build_optimizer(self, **kwargs):
        return None  # each stage has its own

    def stages(self) -> list[Stage]:
        """The recipe, in order."""
        from recbole_think.stages.alignment import MultiTask, TokenWarmup
        from recbole_think.stages.recommendation import Recommendation

        options = self.model.options
        known: list[Stage] = [
            TokenWarmup(options["token_warmup"], self.material, self._judge),
            MultiTask(options["multi_task"], self.material, self._judge),
            Recommendation(options["recommendation"], options["prompts"].max_history),
        ]
        return [stage for stage in known if stage.name in self.config["stages"]]

    def material(self) -> Material:
        """What alignment is made of; gathered when first asked for, since a finished run needs none of it."""
        if self._material is None:
            from recbole_think.prompts.material import Material

            model = self.model
            self._material = Material(
                model.vocabulary, model.histories, model.items, model.profiles, self._general(),
                model.options["alignment"], model.options["prompts"].max_history, model.seed,
            )  # fmt: skip
        return self._material

    def _general(self) -> list:
        from recbole_think.prompts.general import questions, read_general
        from recbole_think.stages.speech import own_answers

        model, options = self.model, self.model.options["alignment"]
        if self.general is not None:
            return self.general
        if options.general != OWN:
            return read_general(Path(options.general))
        texts = [item.text for item in model.items]
        asked = questions(options.general_prompts)
        return own_answers(model.options["backbone"], asked, options.answer_tokens, model.cache, texts, model.seed)

    def _judge(self, language_model) -> dict:
        from recbole_think.itemic.embed import encode
        from recbole_think.stages.precision import autocast
        from recbole_think.stages.quality import judge

        model = self.model
        with autocast(language_model, model.options["multi_task"].precision, model.folder):
            return judge(
                language_model,
                self.material(),
                model.ranker.trie,
                lambda texts: encode(texts, model.options["itemic"].encoder),
            )

    def fit(self, train_data, valid_data=None, verbose=True, saved=True, show_progress=False, callback_fn=None):
        """Run the stages; each ends with the weights validation chose.

        Returns:
            Best validation score and None (the full validation result comes from evaluating the restored model).
        """
        self.eval_collector.data_collect(train_data)
        self.stage_rows = run_stages(self.stages(), self.context(valid_data, show_progress))
        self.parents = {row["stage"]: row["digest"] for row in self.stage_rows}
        self.best_valid_score = self.stage_rows[-1]["best_score"] if self.stage_rows else float("nan")
        self.model.eval()
        return self.best_valid_score, None

    def context(self, valid_data, show_progress: bool) -> Context:
        """What every stage is given."""
        model, options = self.model, self.model.options
        return Context(
            folder=Path(self.config["run_folder"]),
            model=model.language_model,
            vocabulary=model.vocabulary,
            histories=model.histories,
            perplexity=self._perplexity,
            validate=lambda users: self._score(self._sampled(valid_data, users)),
            seed=self.config["seed"],
            facts={
                "data_fingerprint": model.fingerprint,
                "seed": self.config["seed"],
                **{name: asdict(options[name]) for name in ("itemic", "backbone", "prompts", "alignment")},
            },
            scalar=self.tensorboard.add_scalar,
            show_progress=show_progress,
            stages_from=Path(self.config["stages_from"]) if self.config["stages_from"] else None,
        )

    def restore_best(self) -> None:
        """Nothing to do: ``fit`` ends with the chosen weights in place."""

    def _perplexity(self, words_alone: bool) -> float:
        from recbole_think.stages.alignment import general_perplexity

        return general_perplexity(self.model.language_model, self.material(), words_alone)

    def _score(self, loader) -> float:
        with ranked_ahead(self.model, loader):
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
