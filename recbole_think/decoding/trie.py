"""Which code may follow: an exact prefix trie over the whole catalogue, in flat arrays.

Takes int64 codes [n, L]; row r is the item with RecBole id r + 1. Items sorted by code make every node a range of
sorted items and its children a run of nodes one level down, so expansion is two gathers and masking is a cumulative
sum. (The official code keeps only "which token may follow which": on Beauty that admits 1,273 times too many strings.)

B users, K beams, C largest number of children on a level, L levels.
"""

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
        if int(codes.min()) < 0:
            row = int((codes < 0).any(1).nonzero()[0])
            raise InputError(f"item {row + 1} has the code {int(codes.min())}: codes count from 0")
        order = _lexicographic(codes)
        ordered = codes[order]
        doubled = (ordered[1:] == ordered[:-1]).all(1)
        if doubled.any():
            pair = order[int(doubled.nonzero()[0]) :][:2].tolist()
            raise InputError(
                f"items {pair[0] + 1} and {pair[1] + 1} have the same codes; set itemic.collisions=reassign"
            )
        self.items = order.int()  # int32 [n], row of the catalogue at each sorted place
        self.codes: list[Tensor] = []  # per level d >= 1, int16 or int32 [nodes]: last code of each node
        # per level d < L, int32 [nodes + 1]: range of sorted items; the leaves are the sorted items themselves
        self.starts: list[Tensor] = [torch.tensor([0, self.n], dtype=torch.int32)]
        self.first_child: list[Tensor] = []  # per level d < L, int32 [nodes + 1]; of level L - 1 it is its starts
        new = torch.zeros(self.n, dtype=torch.bool)
        new[0] = True
        for level in range(self.levels):
            column = ordered[:, level]
            new[1:] |= column[1:] != column[:-1]
            begins = new.nonzero().squeeze(1).int()
            self.codes.append(_narrow(column[begins.long()]))
            if level + 1 < self.levels:
                self.first_child.append(torch.searchsorted(begins, self.starts[-1]).int())
                self.starts.append(torch.cat([begins, self.starts[0][1:]]))
        self.first_child.append(self.starts[-1])
        self._widest = [int(first.diff().max()) for first in self.first_child]

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        held = {id(array): array.nbytes for array in (self.items, *self.codes, *self.starts, *self.first_child)}
        return sum(held.values())

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

    def free_before(self, item_mask: Tensor) -> Tensor:
        """Count the items that may be named before each sorted place: bool [B, n] -> int32 [B, n + 1]."""
        free = ~item_mask[:, self.items.long()]
        return torch.nn.functional.pad(free.cumsum(1, dtype=torch.int32), (1, 0))

    def alive(self, level: int, nodes: Tensor, free_before: Tensor) -> Tensor:
        """Tell which nodes [B, ...] of ``level`` still lead to an item that may be named: bool, same shape."""
        begin, end = self._span(level, nodes.reshape(len(nodes), -1))
        left = free_before.gather(1, end) - free_before.gather(1, begin)
        return (left > 0).reshape(nodes.shape)

    def spans(self, level: int, nodes: Tensor) -> Tensor:
        """Range of sorted places below each node of ``level``: int64 [m] -> [m, 2]."""
        return torch.stack(self._span(level, nodes), dim=1)

    def _span(self, level: int, nodes: Tensor) -> tuple[Tensor, Tensor]:
        if level == self.levels:  # a leaf is its own place
            return nodes, nodes + 1
        starts = self.starts[level]
        return starts[nodes].long(), starts[nodes + 1].long()

    def item(self, leaves: Tensor) -> Tensor:
        """Catalogue rows of nodes of the last level: int64."""
        return self.items[leaves].long()


def _narrow(codes: Tensor) -> Tensor:
    """Codes in the smallest integers that hold them."""
    return codes.to(torch.int16 if int(codes.max()) < 2**15 else torch.int32)


def _lexicographic(codes: Tensor) -> Tensor:
    """Order of the rows by first code, then second, and so on; equal rows keep their order."""
    order = torch.arange(len(codes))
    for level in range(codes.shape[1] - 1, -1, -1):
        order = order[codes[order, level].argsort(stable=True)]
    return order
