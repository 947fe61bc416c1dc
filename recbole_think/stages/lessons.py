"""What teachers say of training histories, epoch by epoch (``distillation.py`` asks them).

Beyond a history's last event nobody knows what comes; there the pupil is taught items drawn from what teachers say
(distillation on sequences, Kim and Rush 2016). E events, n items, K items named, L levels.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from recbole_think.corpus.histories import Histories
from recbole_think.prompts.soft import Soft, SoftTable
from recbole_think.stages.options import DistillationOptions
from recbole_think.stages.stage import Context

DRAWS = 1  # a stream of random numbers beside the one that cuts histories
PATHS = 9700  # likewise
Asked = Callable[[Histories, np.ndarray], tuple[np.ndarray, np.ndarray]]  # items named, and their probabilities


@dataclass(frozen=True)
class Told:
    """Histories, and what teachers say of their events."""

    histories: Histories
    items: np.ndarray  # int64 [E, K]
    shares: np.ndarray  # float32 [E, K]
    open: np.ndarray  # int64 [U], places of last events nobody knows
    weights: np.ndarray  # float32 [E], of what they say beside the true item


class Lessons:
    """What teachers say of a pupil's training histories."""

    def __init__(self, options: DistillationOptions, histories: Histories, item_codes: np.ndarray, ask: Asked):
        """Ask teachers about every event, and about what comes after the last.

        Args:
            options: how they teach.
            histories: training histories of the pupil.
            item_codes: int64 [n, L].
            ask: histories, in which an item 0 stands for what nobody knows, and places [M] of events, to the items
                named before each of these events, int64 [M, K], and float32 [M, K].
        """
        self.item_codes = item_codes
        someone = np.flatnonzero(np.diff(histories.starts) > 0) if options.beyond else np.zeros(0, dtype=np.int64)
        longer, last = _opened(histories, someone)
        items, shares = ask(longer, np.arange(len(longer.items)))
        weights = np.full(len(items), options.weight, dtype=np.float32)
        weights[last] = 1.0  # no true item is known there
        self.told = [Told(longer, items, shares, last, weights)]
        if options.beyond > 1:
            paths = [self.told[0]] * options.paths
            for step in range(1, options.beyond):
                dice = np.random.default_rng([PATHS, step])
                paths = [_continued(told, someone, ask, dice) for told in paths]
            self.told = paths

    def of_epoch(self, generator: np.random.Generator) -> tuple[Histories, Callable[[slice], Soft]]:
        """Histories of one epoch, ends drawn by ``generator``, and what teachers say of a window's predicted items."""
        told = self.told[int(generator.integers(len(self.told)))] if len(self.told) > 1 else self.told[0]
        events = told.histories.items.copy()
        events[told.open] = _drawn(told.items[told.open], told.shares[told.open], generator)
        table = SoftTable(self.item_codes, events, told.items, told.shares, told.weights)
        return Histories(told.histories.starts, events), lambda span: Soft(table, slice(span.start + 1, span.stop))


def _opened(histories: Histories, users: np.ndarray) -> tuple[Histories, np.ndarray]:
    """Histories with an event nobody knows after those of some users, and where these stand."""
    longer = histories.extended(users, np.zeros(len(users), dtype=np.int64))
    return longer, longer.starts[1:][users] - 1


def _continued(told: Told, users: np.ndarray, ask: Asked, generator: np.random.Generator) -> Told:
    """Go on by one item: what stood open is drawn, and teachers are asked what comes after that."""
    events = told.histories.items.copy()
    events[told.open] = _drawn(told.items[told.open], told.shares[told.open], generator)
    longer, last = _opened(Histories(told.histories.starts, events), users)
    before = np.ones(len(longer.items), dtype=bool)
    before[last] = False

    def merged(old: np.ndarray, new: np.ndarray) -> np.ndarray:
        whole = np.empty((len(before), *old.shape[1:]), dtype=old.dtype)
        whole[before], whole[last] = old, new
        return whole

    items, shares = (merged(*parts) for parts in zip((told.items, told.shares), ask(longer, last), strict=True))
    return Told(longer, items, shares, last, merged(told.weights, np.ones(len(last), dtype=np.float32)))


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
