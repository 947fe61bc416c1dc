"""Cases of reasoning activation: places of training histories, and the rationales that may be learnt there.

The source explains each case from its pruned context (OneRec-Think, "Reasoning Activation"), once, before the first
round; what passes the filter is kept in the stage's folder until the stage has finished.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from torch import Tensor

from recbole_think.artifacts import read_json, write_json
from recbole_think.corpus.histories import spans
from recbole_think.decoding.options import DecodeOptions
from recbole_think.errors import InputError
from recbole_think.processes import first_alone
from recbole_think.prompts.filters import REASONS, Filter
from recbole_think.prompts.rationale import Case, Pieces, decoded, encoded, items_by_tokens, kinds, nearest
from recbole_think.prompts.soft import Soft
from recbole_think.prompts.tasks import Example, recommendation_example, recommendation_frame
from recbole_think.prompts.thinking import briefly, only
from recbole_think.stages.activation_options import ActivationOptions
from recbole_think.stages.lessons import Lessons, taught_histories
from recbole_think.stages.sources import Source
from recbole_think.stages.stage import CHECKPOINTS, Context

ONLY_SHARE = 0.7  # of the wishes are for one kind of item, where the target has any; the others for few words


@dataclass
class Taught:
    """A case and what is learnt of it: token ids of a rationale (none = an empty thought), or nothing at all."""

    window: int
    place: int  # items of the window before the target
    case: Case
    thought: list[int] | None
    instruction: str = ""  # a wish of the person's
    soft: Soft | None = None  # what teachers say of the target


@dataclass(frozen=True)
class Means:
    """What activation is given besides its options."""

    source: Callable[[], Source]  # who explains; asked for when the stage runs
    vectors: Callable[[], np.ndarray]  # float32 [n, d], unit rows: what "nearest" means
    filter: Filter  # which rationales may be learnt from
    think: Callable[[list[np.ndarray], DecodeOptions], list]  # prompts -> thoughts of each (``Ranker.think``)
    words: Tensor  # int64 [W], tokens a thought may be made of
    leans_on: Mapping[str, Any]  # options of others that decide what is learnt, and which weights are kept
    lessons: Callable[[], Lessons] | None = None  # what teachers say of training histories, where any teach


class Cases:
    """Asks the source about every case, and filters what it says.

    Attributes:
        counts: cases accepted, rejected by reason, and with a wish.
        costs: of the source, in the process that asked it.
    """

    def __init__(self, options: ActivationOptions, max_history: int, means: Means):
        self.options, self.max_history, self.means = options, max_history, means
        self.counts: Counter[str] = Counter()
        self.costs: dict[str, float] = {}

    def explained(self, context: Context) -> tuple[list[Example], list[Taught]]:
        """Windows of all histories, and places in them with the rationales that pass the filter.

        Explained once, by whoever explains as it is when the stage begins; kept until the stage has finished.
        """
        options, vocabulary = self.options, context.vocabulary
        frame, vectors = recommendation_frame(vocabulary.tokenizer), self.means.vectors()
        examples: list[Example] = []
        taught: list[Taught] = []
        for epoch in range(options.epochs):
            dice = np.random.default_rng([context.seed, 6000, epoch])
            histories, said = taught_histories(self.means.lessons, context, epoch)
            for span in spans(histories, self.max_history + 1, dice):
                window, soft = histories.items[span], said(span)
                places = dice.permutation(np.arange(1, len(window)))[: options.per_window]
                for place in places.tolist():
                    history, target = tuple(window[:place].tolist()), int(window[place])
                    case = Case(history, target, nearest(history, target, vectors, options.evidence))
                    of_target = soft.only(place - 1) if soft else None
                    taught.append(Taught(len(examples), place, case, None, soft=of_target))
                examples.append(recommendation_example(frame, vocabulary, window, soft))
        if not examples:
            raise InputError("no user has two training events: there is nothing to explain")
        path = context.folder / ActivationOptions.block / CHECKPOINTS / "explained.json"
        if not path.is_file():
            with first_alone() as mine:
                if mine:
                    write_json(path, self._accepted(context, taught))
        kept = read_json(path)
        self.counts, self.costs = Counter(kept["counts"]), kept["costs"]
        for one, thought, wish in zip(taught, kept["thoughts"], kept["wishes"], strict=True):
            one.thought, one.instruction = thought, wish
        return examples, taught

    def _accepted(self, context: Context, taught: list[Taught]) -> dict[str, Any]:
        """Ask the source about every case and filter what it says."""
        context.model.eval()
        source = self.means.source()
        given = source.explain([one.case for one in taught])
        counts, thoughts, wishes = Counter[str](), [], []
        dice = np.random.default_rng([context.seed, 6100])
        for one, pieces in zip(taught, given, strict=True):
            reason = "empty" if pieces is None else self.means.filter.reason(pieces, one.case)
            wish = ""
            if pieces is not None and reason is None and dice.random() < self.options.instructed:
                wish, pieces = self._wished(one.case, pieces, dice)
                reason = self.means.filter.reason(pieces, one.case)
            counts[reason or "accepted"] += 1
            counts["instructed"] += bool(wish) and reason is None
            thoughts.append(encoded(pieces, context.vocabulary) if pieces is not None and reason is None else None)
            wishes.append(wish)
        if not counts["accepted"]:
            said = ", ".join(f"{name} {counts[name]}" for name in REASONS if counts[name])
            raise InputError(
                f"activation: none of {len(taught)} rationales may be learnt from ({said}); see activation.source"
            )
        return {"counts": counts, "thoughts": thoughts, "wishes": wishes, "costs": source.costs()}

    def _wished(self, case: Case, pieces: Pieces, dice: np.random.Generator) -> tuple[str, Pieces]:
        """A wish the target fulfils, and the rationale that follows it."""
        named = kinds(self.means.filter.items[case.target - 1])
        if named and dice.random() < ONLY_SHARE:
            return only(named[dice.integers(len(named))], pieces, dice)
        return briefly(pieces, dice)

    @cached_property
    def _items_of(self) -> dict[tuple[int, ...], int]:
        return items_by_tokens(self.means.filter.vocabulary)

    def pieces(self, thought: list[int]) -> Pieces:
        return decoded(thought, self.means.filter.vocabulary, self._items_of)
