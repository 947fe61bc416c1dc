"""Online: what is known of a user, and what they did just now, to a list at once. Nothing here ever thinks.

What was thought about a user ahead of time says what items should begin with; the direct model finishes them. Somebody
of whom nothing was thought gets the direct model's own list, somebody of whom nothing is known what is popular.
"""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor

from recbole_think.decoding.kept import Kept
from recbole_think.options import check
from recbole_think.serving.ahead import Ahead
from recbole_think.serving.direct import DirectModel, Found, Question
from recbole_think.serving.prompt_cache import PromptCache
from recbole_think.serving.run import ServedRun
from recbole_think.serving.store import Store, StoreError

log = logging.getLogger(__name__)
AWAY_S = 1.0  # for which a store that did not answer is not asked
AHEAD, DIRECT, SESSION, POPULAR = "ahead", "direct", "session", "popular"


@dataclass(frozen=True)
class OnlineOptions:
    """How answers are made."""

    num_beams: int = 0  # of an answer; 0 = as the run was evaluated
    free: float = 0.2  # share of a list that may lie beside what was thought of; 0 = none
    cache_mib: int = 256  # for keys and values of prompts; 0 = none are kept
    block: int = 5  # a prompt that is full forgets so many events at once: between, it only grows and can be kept

    def __post_init__(self):
        check(self.num_beams >= 0, f"--num_beams must be 0 (as in the run) or more, got {self.num_beams}")
        check(0 <= self.free <= 1, f"--free must be a share from 0 to 1, got {self.free}")
        check(self.cache_mib >= 0, f"--cache_mib must not be negative, got {self.cache_mib}")
        check(self.block >= 1, f"--block must be at least 1, got {self.block}")


@dataclass(frozen=True)
class Visitor:
    """Who wants a list."""

    user: str | None = None
    session: tuple[str, ...] = ()  # raw ids of what they did just now, oldest first, known to this request alone
    k: int = 10
    mask_history: bool | None = None  # None = as the run was evaluated


@dataclass(frozen=True)
class Listed:
    """One place of a list."""

    item: str
    title: str
    score: float | None  # log-probability by the direct model; None for what is popular
    thought: int | None  # which rationale speaks most for it; None = none


@dataclass(frozen=True)
class Answer:
    """A list, and where it comes from."""

    items: list[Listed]
    source: str
    rationales: list[str] = field(default_factory=list)
    thought_at: float | None = None  # when they were thought
    events: int = 0  # of the history that was answered after
    unknown: int = 0  # of what the request named, items that are not in the catalogue
    model: int = 0  # version of the direct model


class Recommender:
    """Answers; for one thread at a time."""

    def __init__(self, served: ServedRun, store: Store, options: OnlineOptions | None = None):
        """Take a run that answers directly, and a store of its catalogue.

        Args:
            served: the run.
            store: thoughts and events.
            options: how answers are made.
        """
        self.served, self.store, self.options = served, store, options or OnlineOptions()
        self.cache = PromptCache(self.options.cache_mib << 20)
        self.popular = served.popular()
        self.version = 0  # of the direct model
        self.store_failures = 0  # batches that were answered without the store
        self._away_until = 0.0  # of the monotonic clock: a store that is away is not waited for again and again
        model = direct_model(served, self.options)
        model.require_room(served.model.ranker.max_history + self.options.block - 1)
        self.use(model, model.frame(), 0)

    def use(self, model: DirectModel, frame: Kept | None, version: int) -> None:
        """Answer with these weights from now on.

        Args:
            model: the weights.
            frame: what they read of the beginning of all prompts.
            version: their number.
        """
        self.cache.clear()
        if frame is not None:
            self.cache.begin_with(frame)
        self.model, self.version = model, version

    @property
    def longest(self) -> int:
        """Length of a list that can always be filled."""
        return self.model.num_beams

    def answer(self, asked: Sequence[Visitor]) -> list[Answer]:
        """Answer several at once.

        Args:
            asked: B; ``k`` of each at most ``longest``.
        """
        users = sorted({one.user for one in asked if one.user is not None})
        events, thoughts = self._remembered(users)
        people = [self._person(one, events, thoughts) for one in asked]
        ready = [row for row, person in enumerate(people) if person.question is not None]
        questions = [person.question for person in people if person.question is not None]
        found = self.model.lists(questions, self.options.free, [asked[row].k for row in ready])
        answers = [self._popular(one, person) for one, person in zip(asked, people, strict=True)]
        for row, one in zip(ready, found, strict=True):
            answers[row] = self._listed(people[row], one)
            user = asked[row].user
            if user is not None and one.kept is not None:
                self.cache.put(user, one.kept)
        return answers

    def _remembered(self, users: Sequence[str]) -> tuple[dict[str, list[str]], dict[str, str]]:
        """Items of events, and thoughts, of users; without the store answers are made of what the data set knows."""
        if time.monotonic() >= self._away_until:
            try:
                events, thoughts = self.store.events(users), self.store.get(users)
                return {user: [event.item for event in told] for user, told in events.items()}, thoughts
            except StoreError as why:
                self._away_until = time.monotonic() + AWAY_S
                log.warning("answering without the store: %s", why)
        self.store_failures += 1
        return {}, {}

    def _person(self, one: Visitor, events: dict[str, list[str]], thoughts: dict[str, str]) -> "_Person":
        """All that is known of somebody who asks."""
        catalogue, none = self.served.catalogue, np.zeros(0, dtype=np.int64)
        base = none if one.user is None else self.served.history(one.user)
        kept = none if one.user is None else catalogue.known(events.get(one.user, []))
        fresh = catalogue.known(one.session)
        history = np.concatenate([base, kept, fresh])
        unknown = len(one.session) - len(fresh)
        if not len(history):
            return _Person(POPULAR, history, unknown, None, None)
        masked = np.unique(history) if self._masks(one) else none
        if len(masked) == len(catalogue.names):  # nothing is left to name
            return _Person(POPULAR, history, unknown, None, None)
        text = thoughts.get(one.user) if one.user is not None else None
        ahead = None if text is None else Ahead.of(text)
        prefixes = None if ahead is None else self._usable(ahead.codes(), masked, one.k)
        source = AHEAD if prefixes is not None else DIRECT if len(base) + len(kept) else SESSION
        prompt = self.model.prompt(history[window(len(base), len(history), self._most, self.options.block) :])
        keep = one.user is not None and self.cache.most > 0
        question = Question(prompt, masked, prefixes, self.cache.find(one.user, prompt), keep)
        return _Person(source, history, unknown, ahead, question)

    @property
    def _most(self) -> int:
        return self.model.ranker.max_history

    def _masks(self, one: Visitor) -> bool:
        return self.served.masked if one.mask_history is None else one.mask_history

    def _usable(self, prefixes: Tensor, masked: np.ndarray, k: int) -> Tensor | None:
        """Prefixes of at least ``k`` items that may be named; None where there are fewer: lists would be short."""
        if not len(prefixes):
            return None
        return prefixes if self.served.catalogue.left(prefixes, masked) >= k else None

    def _popular(self, one: Visitor, person: "_Person") -> Answer:
        """What is popular, without what a person has met."""
        left = self.popular
        if self._masks(one):
            left = left[~np.isin(left, person.history)]
        items = [self._place(item, None, None) for item in left[: one.k].tolist()]
        return Answer(items, POPULAR, events=len(person.history), unknown=person.unknown, model=self.version)

    def _listed(self, person: "_Person", found: Found) -> Answer:
        """A list with titles and what speaks for each item."""
        ahead = person.ahead if person.source == AHEAD else None
        table, items = self.served.catalogue.codes.table, []
        for item, score in zip(found.items, found.scores, strict=True):
            items.append(self._place(item, score, ahead and ahead.leading_to(table[item - 1].tolist())))
        return Answer(
            items, person.source, [one.words for one in ahead.rationales] if ahead else [], ahead.at if ahead else None,
            len(person.history), person.unknown, self.version,
        )  # fmt: skip

    def _place(self, item: int, score: float | None, thought: Any) -> Listed:
        return Listed(self.served.catalogue.names[item - 1], self.served.catalogue.titles[item - 1], score, thought)


@dataclass(frozen=True)
class _Person:
    """What is known of somebody who asks, and what the direct model is asked; None = nothing can be."""

    source: str
    history: np.ndarray
    unknown: int
    ahead: Ahead | None
    question: Question | None


def direct_model(served: ServedRun, options: OnlineOptions) -> DirectModel:
    """The direct model of a run, with the weights it has now."""
    decode = served.model.options["decode"]
    return DirectModel(
        served.model.ranker, served.model.dtype(), options.num_beams or decode.num_beams, decode.normalize,
        decode.tokens_per_batch,
    )  # fmt: skip


def window(base: int, events: int, most: int, block: int) -> int:
    """First event that a prompt shows.

    Of what the data set holds it shows the latest ``most`` events, as in the evaluation. What comes after is put behind
    it, and every ``block`` events as many of the oldest go, so that one prompt is mostly the beginning of the next.

    Args:
        base: events the data set holds.
        events: all of them.
        most: events of a prompt in training; up to ``block`` - 1 more are shown.
        block: events that go at once.
    """
    first = max(0, base - most)
    return first + max(0, events - most - first) // block * block
