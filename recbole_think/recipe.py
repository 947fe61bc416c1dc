"""The recipe: the stages of OneRecThink in order, each with what it leans on.

On one page what feeds what: texts and histories make the material of alignment, teachers their lessons, categories (or
the model, or a server) the rationales of activation. Gathered when first asked for, since a finished run needs none.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from recbole_think.corpus.histories import Histories, without_last
from recbole_think.prompts.options import OWN
from recbole_think.stages.stage import Stage

if TYPE_CHECKING:
    from recbole_think.decoding.options import DecodeOptions
    from recbole_think.prompts.filters import Filter
    from recbole_think.prompts.material import Material
    from recbole_think.ranker import Thought
    from recbole_think.stages.cases import Means
    from recbole_think.stages.enhancement import Thinking
    from recbole_think.stages.held_out import HeldOut
    from recbole_think.stages.lessons import Lessons
    from recbole_think.stages.options import DistillationOptions
    from recbole_think.stages.sources import Source


class Recipe:
    """What a model is taught."""

    def __init__(self, config, model, held_out: Callable[[int, int], HeldOut]):
        """Take what all stages are made from.

        Args:
            config: of the run.
            model: OneRecThink.
            held_out: (users that choose the checkpoint, further users) -> what measures the reward on the latter.
        """
        self.config, self.model, self._held_out = config, model, held_out
        self.general: list | None = None  # general text, where it is known already
        self.dry = False  # only to be sized up: nobody is asked to explain
        self._material: Material | None = None

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
            *self._enhancement(),
        ]  # fmt: skip
        return [stage for stage in known if stage.name in wanted]

    def _item_enhancement(self) -> list[Stage]:
        if "item_enhancement" not in self.config["stages"]:
            return []  # trl takes a while to import
        from recbole_think.stages.item_enhancement import ItemEnhancement

        model, options = self.model, self.model.options["item_enhancement"]
        longest, masked = model.options["prompts"].max_history, bool(self.config["mask_history"])
        return [ItemEnhancement(options, model.ranker.trie, longest, masked, self._fresh(options))]

    def _enhancement(self) -> list[Stage]:
        if "enhancement" not in self.config["stages"]:
            return []
        from recbole_think.stages.enhancement import Enhancement

        options = self.model.options["enhancement"]
        rewards, fresh = self.model.options["rewards"], self._fresh(options)
        return [Enhancement(options, rewards, self._thinking(), self._held_out, fresh)]

    def _fresh(self, options) -> Histories | None:
        """Whole histories for a stage that asks about events no stage before was taught."""
        return self.model.histories if options.fresh else None

    @property
    def _distillation(self) -> DistillationOptions:
        """As asked for; but what a stage of rewards is to find out, teachers, who were taught it, may not tell."""
        options = self.model.options["distillation"]
        return replace(options, beyond=0 if self.withholds else options.beyond)

    @property
    def _lessons(self) -> Callable[[], Lessons] | None:
        """What teachers say of training histories; asked once."""
        return (lambda: self._asked) if self.model.options["distillation"].teachers else None

    @cached_property
    def _asked(self) -> Lessons:
        from recbole_think.distillation import Teachers, taught_by
        from recbole_think.stages.lessons import Lessons

        model, options, shown = self.model, self._distillation, bool(self.config["show_progress"])
        teachers = Teachers(options, model.fingerprint)
        ask = partial(taught_by, teachers, count=options.items, show=shown)
        return Lessons(options, self.taught, model.codes.table, ask)

    @property
    def _taught_by(self) -> dict[str, Any]:
        """What decides what teachers say."""
        options = self._distillation
        if not options.teachers:
            return {}
        from recbole_think.distillation import facts

        return {"distillation": {**asdict(options), "teachers": facts(options.teachers)}}

    def _means(self) -> Means:
        from recbole_think.stages.cases import Means

        model, options = self.model, self.model.options
        leans_on = {name: asdict(options[name]) for name in ("decode", "teacher")}
        for name in ("think", "num_beams", "engine"):  # how lists are made in the end, and without thinking
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

    def perplexity(self, words_alone: bool) -> float:
        """Of the held-out general texts; see ``stages/loss.py``."""
        from recbole_think.stages.alignment import general_perplexity

        return general_perplexity(self.model.language_model, self.material(), words_alone)
