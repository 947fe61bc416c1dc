"""What fresh events teach the direct model, and how what it learnt is judged.

Some users' fresh events are never taught, only asked for: the canary. Old histories are read beside the new ones, so
that what was learnt before is kept, and a fixed sample of them is asked for: the guard.
"""

from collections.abc import Iterable, Mapping, Sequence
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


def fresh_of(served: ServedRun, events: Sequence[Event], all_items: Mapping[str, Sequence[str]]) -> list[Fresh]:
    """Gather events by user.

    Args:
        served: what the data set holds.
        events: fresh ones, in order.
        all_items: by user all items since the data set, of which the last are the fresh ones; perhaps later ones too.
    """
    last = {event.user: event.number for event in events}
    counts: dict[str, list[str]] = {}
    for event in events:
        counts.setdefault(event.user, []).append(event.item)
    found = []
    for user in sorted(last):
        new = served.catalogue.known(counts[user])
        known = served.catalogue.known(all_items[user])
        later = _behind(known, new)
        history = np.concatenate([served.history(user), known[: len(known) - later]])
        if len(new) and len(history) > 1:
            found.append(Fresh(user, history, min(len(new), len(history) - 1)))
    return found


def _behind(known: np.ndarray, new: np.ndarray) -> int:
    """How many events came after the fresh ones, while these were gathered."""
    for later in range(len(known) - len(new) + 1):
        end = len(known) - later
        if np.array_equal(known[end - len(new) : end], new):
            return later
    return 0


def is_canary(user: str, share: float) -> bool:
    """Whether a user's events are asked for instead of taught; the same users every time."""
    return crc32(f"canary {user}".encode()) % CANARIES < share * CANARIES


def asked(people: Iterable[Fresh], most: int) -> Questions:
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
    return Questions([one[:-1] for one in whole], np.array([one[-1] for one in whole], dtype=np.int64))


@dataclass(frozen=True)
class Lesson:
    """Batches of one update."""

    people: Sequence[Fresh]
    histories: Histories  # old ones
    max_history: int
    replay: float  # windows of old histories for every window of fresh events
    epochs: int
    row_tokens: int
    tokens_per_batch: int
    seed: int

    def plan(self, vocabulary: Vocabulary) -> BatchPlan:
        """Plan every step: fresh events once an epoch, and old windows drawn anew beside them."""
        frame = recommendation_frame(vocabulary.tokenizer)
        batches = []
        for epoch in range(self.epochs):
            dice = np.random.default_rng([self.seed, epoch])
            examples = [self._example(frame, vocabulary, one) for one in self.people]
            old = spans(self.histories, self.max_history + 1, dice)
            for _, span in zip(range(round(self.replay * len(examples))), old, strict=False):
                examples.append(recommendation_example(frame, vocabulary, self.histories.items[span]))
            mixed = [examples[place] for place in dice.permutation(len(examples))]
            batches += into_batches(packed_rows(mixed, len(frame), self.row_tokens), self.tokens_per_batch)
        return BatchPlan(batches, vocabulary.tokenizer.pad_token_id)

    def _example(self, frame: np.ndarray, vocabulary: Vocabulary, one: Fresh) -> Example:
        """The latest events of a user, of which the fresh ones are to be predicted."""
        window = one.history[-(self.max_history + 1) :]
        example = recommendation_example(frame, vocabulary, window)
        taught = min(one.new, len(window) - 1) * vocabulary.item_tokens.shape[1]
        supervised = example.supervised.copy()
        supervised[: len(supervised) - taught] = False
        return Example(example.input_ids, supervised)
