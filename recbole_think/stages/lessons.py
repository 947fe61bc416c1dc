"""What teachers say of training histories, epoch by epoch (``distillation.py`` asks them).

Beyond a history's last event nobody knows what comes; there the pupil is taught items drawn from what teachers say
(distillation on sequences, Kim and Rush 2016). E events, n items, K items named, L levels.
"""

from collections.abc import Callable, Iterator

import numpy as np

from recbole_think.corpus.histories import Histories
from recbole_think.prompts.soft import Soft, SoftTable
from recbole_think.stages.options import DistillationOptions
from recbole_think.stages.stage import Context

DRAWS = 1  # a stream of random numbers beside the one that cuts histories
Asked = Callable[[Histories], tuple[np.ndarray, np.ndarray]]  # items named before each event, and their probabilities


class Lessons:
    """What teachers say of a pupil's training histories."""

    def __init__(self, options: DistillationOptions, histories: Histories, item_codes: np.ndarray, ask: Asked):
        """Ask teachers about every event, and about what comes after the last.

        Args:
            options: how they teach.
            histories: training histories of the pupil.
            item_codes: int64 [n, L].
            ask: histories, in which an item 0 stands for what nobody knows, to int64 [E, K] and float32 [E, K].
        """
        self.item_codes, self.histories, self.count = item_codes, histories, options.asides
        self.beyond = np.zeros(0, dtype=np.int64)
        if options.beyond:
            someone = np.flatnonzero(np.diff(histories.starts) > 0)
            self.histories = histories.extended(someone, np.zeros(len(someone), dtype=np.int64))
            self.beyond = self.histories.starts[1:][someone] - 1
        self.items, self.shares = ask(self.histories)
        self.weights = np.full(len(self.items), options.weight, dtype=np.float32)
        self.weights[self.beyond] = 1.0  # no true item is known there

    def of_epoch(self, generator: np.random.Generator) -> tuple[Histories, Callable[[slice], Soft]]:
        """Histories of one epoch, ends drawn by ``generator``, and what teachers say of a window's predicted items."""
        events = self.histories.items.copy()
        events[self.beyond] = _drawn(self.items[self.beyond], self.shares[self.beyond], generator)
        table = SoftTable(self.item_codes, events, self.items, self.shares, self.weights)
        asides = tuple(self._asides(events, generator))
        return (
            Histories(self.histories.starts, events),
            lambda span: Soft(table, slice(span.start + 1, span.stop), asides),
        )

    def _asides(self, events: np.ndarray, generator: np.random.Generator) -> Iterator[SoftTable]:
        """Tables of other items than those that stand at each event, drawn from what teachers say."""
        if not self.count:
            return
        others = np.where(self.items == events[:, None], 0, self.shares)
        for _ in range(self.count):
            drawn = _drawn(self.items, others, generator)
            yield SoftTable(self.item_codes, drawn, self.items, self.shares, np.ones_like(self.weights))


def _drawn(items: np.ndarray, shares: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """One item of each row [m, K], by its share: int64 [m]."""
    upto = shares.cumsum(1)
    places = (generator.random(len(upto))[:, None] * upto[:, -1:] >= upto).sum(1)
    return items[np.arange(len(items)), np.minimum(places, upto.shape[1] - 1)]


def taught_histories(
    lessons: Callable[[], Lessons] | None, context: Context, epoch: int
) -> tuple[Histories, Callable[[slice], Soft | None]]:
    """Histories a stage reads in an epoch, and what is said of the predicted items of a window of them, if anything."""
    if lessons is None:
        return context.histories, lambda span: None
    return lessons().of_epoch(np.random.default_rng([context.seed, epoch, DRAWS]))
