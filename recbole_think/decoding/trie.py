"""Which code may follow: an exact prefix trie over the whole catalogue, in flat arrays.

Takes int64 codes [n, L]; row r is the item with RecBole id r + 1. Items sorted by code make every node a range of
sorted places and its children a run of nodes one level down, so expansion is two gathers. (The official code keeps
only "which token may follow which": on Beauty that admits 1,273 times too many strings.)

B users, K beams, C largest number of children on a level, L levels.
"""

import numpy as np
import torch
from torch import Tensor

from recbole_think.errors import InputError


class SidTrie:
    """Prefix trie of a catalogue. Level 0 is the root, node j of level d is the j-th distinct prefix of d codes."""

    def __init__(self, codes: Tensor):
        """Build the trie.

        Args:
            codes: int64 [n, L].

        Raises:
            InputError: two items share their codes, a code is negative, or the table is empty.
        """
        if codes.ndim != 2 or not len(codes):
            raise InputError(f"a trie needs codes [n, L], got shape {tuple(codes.shape)}")
        self.n, self.levels = codes.shape
        columns = _narrow(codes)  # [L, n]
        order = np.lexsort(columns[::-1])  # by first code, then second, and so on; equal rows keep their order
        self.items = torch.from_numpy(order.astype(np.int32))  # int32 [n], row of the catalogue at each sorted place
        self.places = torch.empty_like(self.items)  # int32 [n], sorted place of each row
        self.places[self.items.long()] = torch.arange(self.n, dtype=torch.int32)
        self.codes: list[Tensor] = []  # per level d >= 1, int16 or int32 [nodes]: last code of each node
        # per level d < L, int32 [nodes + 1]; the leaves are the sorted places themselves
        self.first_child: list[Tensor] = []
        new = np.zeros(self.n, dtype=bool)
        new[0] = True
        above = new.nonzero()[0]
        for column in columns:
            column = column[order]
            new[1:] |= column[1:] != column[:-1]
            begins = new.nonzero()[0]
            self.codes.append(torch.from_numpy(column[begins]))
            first = np.append(np.searchsorted(begins, above), len(begins))
            self.first_child.append(torch.from_numpy(first.astype(np.int32)))
            above = begins
        if len(above) < self.n:
            one, other = order[np.flatnonzero(~new)[0] - 1 :][:2] + 1
            raise InputError(f"items {one} and {other} have the same codes; set itemic.collisions=reassign")
        self._widest = [int(first.diff().max()) for first in self.first_child]

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        return sum(array.nbytes for array in (self.items, self.places, *self.codes, *self.first_child))

    def widest(self, level: int) -> int:
        """Largest number of children of a node on ``level``."""
        return self._widest[level]

    def children(self, level: int, nodes: Tensor) -> tuple[Tensor, Tensor]:
        """Expand nodes of ``level``.

        Args:
            level: 0 for the root.
            nodes: int64 [B, K].

        Returns:
            Child nodes of the next level int64 [B, K, C] and which of them exist, bool [B, K, C].
        """
        first = self.first_child[level]
        begin, end = first[nodes].long().unsqueeze(-1), first[nodes + 1].unsqueeze(-1)
        child = begin + torch.arange(self._widest[level])
        exists = child < end
        return torch.where(exists, child, begin), exists

    def span(self, level: int, nodes: Tensor) -> tuple[Tensor, Tensor]:
        """Sorted places below nodes of ``level``: first, and first behind them, int64 in the shape of ``nodes``."""
        begin, end = nodes, nodes + 1
        for first in self.first_child[level:]:
            begin, end = first[begin].long(), first[end].long()
        return begin, end

    def item(self, leaves: Tensor) -> Tensor:
        """Catalogue rows of nodes of the last level: int64."""
        return self.items[leaves].long()


def _narrow(codes: Tensor) -> np.ndarray:
    """Codes level by level, in the smallest integers that hold them: [L, n]."""
    if int(codes.min()) < 0:
        row = int((codes < 0).any(1).nonzero()[0])
        raise InputError(f"item {row + 1} has the code {int(codes[row].min())}: codes count from 0")
    kind = torch.int16 if int(codes.max()) < 2**15 else torch.int32
    return codes.T.to("cpu", kind).contiguous().numpy()
