"""Which items each user may not be named, as cells of a table [B, n] that is never made.

A history of fifty items is fifty cells, however large the catalogue; the table itself would be 640 MB for 64 users and
ten million items, to be made and read through for every batch. B users, n items, m cells.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class ItemMask:
    """Cells of a table; one may stand twice."""

    users: Tensor  # int64 [m], rows of the table
    items: Tensor  # int64 [m], rows of the catalogue
    shape: tuple[int, int]  # B, n
    free: bool = False  # the cells are what may be named, all others are masked

    def repeated(self, times: int) -> "ItemMask":
        """The same for B * ``times`` users, those of one user side by side."""
        users = self.users.unsqueeze(1) * times + torch.arange(times)
        return ItemMask(
            users.flatten(), self.items.repeat_interleave(times), (self.shape[0] * times, self.shape[1]), self.free
        )

    def chosen(self, rows: Sequence[int]) -> "ItemMask":
        """The same for some users alone, none of them twice, in that order."""
        place = torch.full((self.shape[0],), -1)
        place[list(rows)] = torch.arange(len(rows))
        kept = place[self.users] >= 0
        return ItemMask(place[self.users[kept]], self.items[kept], (len(rows), self.shape[1]), self.free)

    def keys(self) -> Tensor:
        """The cells as ``user * n + item``, rising, every one once: int64."""
        return (self.users * self.shape[1] + self.items).unique()


Mask = Tensor | ItemMask  # bool [B, n], True = may not be named, or its cells


def cells_of(mask: Mask) -> ItemMask:
    """Turn a mask bool [B, n], True = may not be named, into cells: of what is masked, or of what is free if less."""
    if isinstance(mask, ItemMask):
        return mask
    free = 2 * int(mask.count_nonzero()) > mask.numel()
    users, items = (~mask if free else mask).cpu().nonzero(as_tuple=True)
    return ItemMask(users, items, (mask.shape[0], mask.shape[1]), free)
