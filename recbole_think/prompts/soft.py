"""Soft labels: what a teacher would have named next, beside what was.

Of each predicted item a teacher gives a few items with their probabilities. At the first code the label is the share of
every code in that; at a later one, of the items that begin with the true item's codes up to there. So a code is learnt
from all that the teacher knows, at the places the sequence has anyway (Hinton et al. 2015, on the levels of a trie).
M predicted items of a batch, K items of the teacher's, L levels, S codes of a level, N positions of one level.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class SoftTable:
    """What teachers say of every training event; E events, n items."""

    item_codes: np.ndarray  # int64 [n, L]
    events: np.ndarray  # int64 [E], RecBole ids of the true items
    items: np.ndarray  # int64 [E, K], RecBole ids that teachers name
    shares: np.ndarray  # float32 [E, K], their probabilities
    weights: np.ndarray  # float32 [E], of what teachers say beside the true item


@dataclass(frozen=True)
class Soft:
    """What teachers say of the predicted items of a sequence, looked up when it is read."""

    table: SoftTable
    rows: slice  # of the table: m events

    def only(self, place: int) -> "Soft":
        """What they say of the predicted item at ``place`` alone."""
        begin = self.rows.start + place
        return Soft(self.table, slice(begin, begin + 1))

    @property
    def codes(self) -> np.ndarray:
        """Codes of the items teachers name: int64 [m, K, L]."""
        return self.table.item_codes[self.table.items[self.rows] - 1]

    @property
    def shares(self) -> np.ndarray:
        """Probabilities of these: float32 [m, K]."""
        return self.table.shares[self.rows]

    @property
    def weight(self) -> np.ndarray:
        """Of what teachers say beside the true items: float32 [m]."""
        return self.table.weights[self.rows]

    @property
    def target(self) -> np.ndarray:
        """Codes of the true items: int64 [m, L]."""
        return self.table.item_codes[self.table.events[self.rows] - 1]


def level_shares(codes: Tensor, shares: Tensor, target: Tensor, level: int, size: int) -> tuple[Tensor, Tensor]:
    """Soft labels at one level.

    Args:
        codes: int64 [N, K, L].
        shares: float32 [N, K].
        target: int64 [N, L].
        level: counted from 0.
        size: S.

    Returns:
        float32 [N, S], summing to 1 where the teacher names an item that begins as the true one does, and bool [N],
        whether it does.
    """
    below = (codes[:, :, :level] == target[:, None, :level]).all(2)
    mass = shares * below
    found = torch.zeros(len(codes), size, device=shares.device).scatter_add_(1, codes[:, :, level], mass)
    total = found.sum(1, keepdim=True)
    return found / total.clamp(min=torch.finfo(torch.float32).tiny), total[:, 0] > 0
