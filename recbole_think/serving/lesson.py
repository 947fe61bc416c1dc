"""What fresh events teach the direct model, and how what it learnt is judged.

Some users' fresh events are never taught, only asked for: the canary. Old histories are read beside the new ones, so
that what was learnt before is kept, and a fixed sample of them is asked for: the guard.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from zlib import crc32

import numpy as np

from recbole_think.corpus.histories import Histories, spans
from recbole_think.itemic.vocabulary import Vocabulary
from recbole_think.prompts.batching import packed_rows
from recbole_think.prompts.tasks import Example, recommendation_example, recommendation_frame
from recbole_think.serving.run import ServedRun
from recbole_think.serving.store import Event
from recbole_think.stages.batches import BatchPlan, into_batches

CANARIES = 1000  # parts that users are cut into, some of which are canaries


@dataclass(frozen=True)
class Fresh:
    """What a user did since the direct model was last taught."""

    user: str
    history: np.ndarray  # int64 [h], RecBole ids, all there is
    new: int  # the last so many of it are fresh


@dataclass(frozen=True)
class Questions:
    """Items asked for, each after what came before it."""

    histories: list[np.ndarray]
    targets: np.ndarray  # int64, RecBole ids
    users: frozenset[int] = frozenset()  # RecBole ids of the data set's, whose histories these are


def fresh_of(served: ServedRun, events: Mapping[str, Sequence[Event]], after: int, until: int) -> list[Fresh]:
    """Gather what is fresh by user.

    Args:
        served: what the data set holds.
        events: by user, in order, all that are known since the data set.
        after: number of the last event that is not fresh.
        until: number of the last one that counts; others came in while these were gathered.
    """
    found = []
    for user, told in sorted(events.items()):
        known = [event for event in told if event.number <= until and event.item in served.catalogue.number]
        history = np.concatenate([served.history(user), served.catalogue.known([event.item for event in known])])
        new = min(sum(event.number > after for event in known), len(history) - 1)  # nothing comes before the first
        if new > 0:
            found.append(Fresh(user, history, new))
    return found


def is_canary(user: str, share: float) -> bool:
    """Whether a user's events are asked for instead of taught; the same users every time."""
    return crc32(f"canary {user}".encode()) % CANARIES < share * CANARIES


def questions_of(people: Iterable[Fresh], most: int) -> Questions:
    """Every fresh event after what came before it, ``most`` of them."""
    histories, targets = [], []
    for one in people:
        for place in range(len(one.history) - one.new, len(one.history)):
            histories.append(one.history[:place])
            targets.append(one.history[place])
    return Questions(histories[:most], np.array(targets[:most], dtype=np.int64))


def guard(histories: Histories, users: int, seed: int) -> Questions:
    """The last event of a fixed sample of users."""
    longer = np.flatnonzero(np.diff(histories.starts) > 1)
    chosen = np.random.default_rng([seed, 4100]).permutation(longer)[:users]
    whole = [histories.of(int(user)) for user in chosen]
    lasts = np.array([one[-1] for one in whole], dtype=np.int64)
    return Questions([one[:-1] for one in whole], lasts, frozenset(chosen.tolist()))


@dataclass(frozen=True)
class Lesson:
    """Batches of one update."""

    people: Sequence[Fresh]
    histories: Histories  # old ones
    without: Collection[int]  # users whose old histories are not read: they judge
    max_history: int
    replay: float  # windows of old histories for every window of fresh events
    epochs: int
    row_tokens: int
    tokens_per_batch: int
    seed: int

    def plan(self, vocabulary: Vocabulary) -> BatchPlan:
        """Plan every step: every fresh event once an epoch, and old windows drawn anew beside them."""
        frame = recommendation_frame(vocabulary.tokenizer)
        batches = []
        for epoch in range(self.epochs):
            dice = np.random.default_rng([self.seed, epoch])
            fresh = (window for one in self.people for window in windows(one, self.max_history))
            examples = [self._example(frame, vocabulary, *window) for window in fresh]
            old = spans(self.histories, self.max_history + 1, dice, self.without)
            for _, span in zip(range(round(self.replay * len(examples))), old, strict=False):
                examples.append(recommendation_example(frame, vocabulary, self.histories.items[span]))
            mixed = [examples[place] for place in dice.permutation(len(examples))]
            batches += into_batches(packed_rows(mixed, len(frame), self.row_tokens), self.tokens_per_batch)
        return BatchPlan(batches, vocabulary.tokenizer.pad_token_id)

    def _example(self, frame: np.ndarray, vocabulary: Vocabulary, window: np.ndarray, new: int) -> Example:
        """Events of a user, of which the last ``new`` are to be predicted."""
        example = recommendation_example(frame, vocabulary, window)
        supervised = example.supervised.copy()
        supervised[: len(supervised) - new * vocabulary.item_tokens.shape[1]] = False
        return Example(example.input_ids, supervised)


def windows(one: Fresh, max_history: int) -> Iterator[tuple[np.ndarray, int]]:
    """The latest events of a user, and so many of the end of them that are fresh; window by window, each event once."""
    end, first = len(one.history), len(one.history) - one.new
    while end > first:
        window = one.history[max(0, end - max_history - 1) : end]
        new = min(end - first, len(window) - 1)
        yield window, new
        end -= new
