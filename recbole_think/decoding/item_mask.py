"""Which items each user may not be named, as cells of a table [B, n] that is never made.

A history of fifty items is fifty cells, however large the catalogue; the table itself would be 640 MB for 64 users and
ten million items, to be made and read through for every batch. B users, n items, m cells.
"""

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

    def keys(self) -> Tensor:
        """The cells as ``user * n + item``, rising, every one once: int64."""
        return (self.users * self.shape[1] + self.items).unique()


def cells_of(mask: Tensor | ItemMask) -> ItemMask:
    """Turn a mask bool [B, n], True = may not be named, into cells: of what is masked, or of what is free if less."""
    if isinstance(mask, ItemMask):
        return mask
    free = 2 * int(mask.count_nonzero()) > mask.numel()
    users, items = (~mask if free else mask).cpu().nonzero(as_tuple=True)
    return ItemMask(users, items, (mask.shape[0], mask.shape[1]), free)
