"""ThinkTrainer at RecBole's seam: runs the stages in order instead of epochs, and keeps the evaluator RecBole's."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from recbole.trainer import Trainer

from recbole_think.corpus.histories import Histories, targets, without_last
from recbole_think.prompts.options import OWN
from recbole_think.shards import ranked_ahead
from recbole_think.stages.stage import Context, Stage, run_stages

if TYPE_CHECKING:
    from recbole_think.decoding.options import DecodeOptions
    from recbole_think.prompts.filters import Filter
    from recbole_think.prompts.material import Material
    from recbole_think.ranker import Thought
    from recbole_think.stages.activation import Means
    from recbole_think.stages.enhancement import Thinking
    from recbole_think.stages.held_out import HeldOut
    from recbole_think.stages.lessons import Lessons
    from recbole_think.stages.sources import Source

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
        self.general: list | None = None  # general text, where it is known already
        self.valid_data: Any = None
        self.dry = False  # only to be sized up: nobody is asked to explain
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
        from recbole_think.stages.activation import Activation
        from recbole_think.stages.alignment import MultiTask, TokenWarmup
        from recbole_think.stages.recommendation import Recommendation

        options, wanted = self.model.options, self.config["stages"]
        known: list[Stage] = [
            TokenWarmup(options["token_warmup"], self.material, self._judge),
            MultiTask(options["multi_task"], self.material, self._judge),
            Recommendation(options["recommendation"], options["prompts"].max_history, self._lessons, self._taught_by),
            *self._item_enhancement(),
            Activation(options["activation"], options["prompts"].max_history, self._means()),
        ]  # fmt: skip
        if "enhancement" in wanted:  # trl takes a while to import
            from recbole_think.stages.enhancement import Enhancement

            fresh = self._fresh(options["enhancement"])
            known.append(
                Enhancement(options["enhancement"], options["rewards"], self._thinking(), self._held_out, fresh)
            )
        return [stage for stage in known if stage.name in wanted]

    def _item_enhancement(self) -> list[Stage]:
        if "item_enhancement" not in self.config["stages"]:
            return []  # trl takes a while to import
        from recbole_think.stages.item_enhancement import ItemEnhancement

        model, options = self.model, self.model.options["item_enhancement"]
        longest, masked = model.options["prompts"].max_history, bool(self.config["mask_history"])
        return [ItemEnhancement(options, model.ranker.trie, longest, masked, self._fresh(options))]

    def _fresh(self, options) -> Histories | None:
        """Whole histories for a stage that asks about events no stage before was taught."""
        return self.model.histories if options.fresh else None

    @property
    def _lessons(self) -> Callable[[], Lessons] | None:
        """What teachers say of training histories; asked once."""
        return (lambda: self._asked) if self.model.options["distillation"].teachers else None

    @cached_property
    def _asked(self) -> Lessons:
        from recbole_think.distillation import Teachers, taught_by
        from recbole_think.stages.lessons import Lessons

        model, options, shown = self.model, self.model.options["distillation"], bool(self.config["show_progress"])
        teachers = Teachers(options, model.fingerprint)
        ask = partial(taught_by, teachers, count=options.items, show=shown)
        return Lessons(options, self.taught, model.codes.table, ask)

    @property
    def _taught_by(self) -> dict[str, Any]:
        """What decides what teachers say."""
        options = self.model.options["distillation"]
        if not options.teachers:
            return {}
        from recbole_think.distillation import facts

        return {"distillation": {**asdict(options), "teachers": facts(options.teachers)}}

    def _means(self) -> Means:
        from recbole_think.stages.activation import Means

        model, options = self.model, self.model.options
        leans_on = {name: asdict(options[name]) for name in ("decode", "teacher")}
        for name in ("think", "num_beams"):  # how lists are made in the end, and without thinking
            del leans_on["decode"][name]
        return Means(
            self._source, model.item_vectors, self._filter(), self._think, model.ranker.words,
            {**leans_on, **self._taught_by}, self._lessons,
        )  # fmt: skip

    def _thinking(self) -> Thinking:
        from recbole_think.stages.enhancement import Thinking

        model, decode = self.model, self.model.options["decode"]
        return Thinking(
            model.codes, model.ranker.trie, model.ranker.words.numpy(), decode.thought_tokens, decode.normalize,
            model.options["prompts"].max_history, bool(self.config["mask_history"]),
        )  # fmt: skip

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

    @property
    def withholds(self) -> bool:
        """Whether the last training event of every user is kept for a stage that learns by rewards."""
        rewarded = ("item_enhancement", "enhancement")
        return any(name in self.config["stages"] and self.model.options[name].fresh for name in rewarded)

    @property
    def taught(self) -> Histories:
        """Training histories as far as supervised stages are taught them."""
        return without_last(self.model.histories) if self.withholds else self.model.histories

    def _filter(self) -> Filter:
        from recbole_think.prompts.filters import Filter

        options = self.model.options["activation"]
        return Filter(self.model.items, self.model.vocabulary, options.shortest, options.longest)

    def _think(self, prompts: list[np.ndarray], options: DecodeOptions) -> list[list[Thought]]:
        return self.model.think(prompts, lambda rows: None, options)

    def _source(self) -> Source:
        """Who explains, as ``activation.source`` names them."""
        from recbole_think.stages.answers import Answers
        from recbole_think.stages.sources import Category, Own, Teacher
        from recbole_think.stages.teaching import Asker

        model, options, shown = self.model, self.model.options["activation"], bool(self.config["show_progress"])
        if options.source == "category" or self.dry:
            return Category(options, model.items, model.vocabulary)
        path = Path(options.rationales or model.cache / "rationales" / f"{model.fingerprint}.sqlite")
        answers = Answers(path, model.fingerprint)
        if options.source == "self":
            return Own(model.language_model, model.vocabulary, options.longest, answers, model.seed, shown)
        return Teacher(Asker(model.options["teacher"], shown), model.items, answers)

    def material(self) -> Material:
        """What alignment is made of; gathered when first asked for, since a finished run needs none of it."""
        if self._material is None:
            from recbole_think.prompts.material import Material

            model = self.model
            self._material = Material(
                model.vocabulary, self.taught, model.items, model.profiles, self._general(),
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
        self.valid_data = valid_data
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
            histories=self.taught,
            perplexity=self._perplexity,
            validate=lambda users, think: self._score(self._sampled(valid_data, users), think),
            seed=self.config["seed"],
            facts={
                "data_fingerprint": model.fingerprint,
                "seed": self.config["seed"],
                **({"withheld": "last training events"} if self.withholds else {}),
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
