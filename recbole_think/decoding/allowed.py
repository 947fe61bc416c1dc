"""What may be named: masked items and allowed prefixes as one mask over the catalogue, asked node by node.

Prefixes become the items below them, so that a search under prefixes and a search under the mask of all other items are
the same search, in any normalisation. No table of users by items is made. B users, n items, L levels.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from recbole_think.decoding.item_mask import ItemMask, Mask, cells_of
from recbole_think.decoding.trie import SidTrie
from recbole_think.errors import InputError


class Allowed:
    """Tells which nodes of the trie still lead to an item that may be named.

    Keeps the sorted places of what is masked, or of what is free: a history of fifty items costs fifty numbers, however
    large the catalogue.
    """

    def __init__(self, trie: SidTrie, mask: Tensor | ItemMask):
        """Gather once; ``mask`` is cells, or bool [B, n], True = may not be named."""
        self.trie = trie
        cells = cells_of(mask)
        self.free_listed = cells.free
        placed = ItemMask(cells.users, trie.places[cells.items], cells.shape)
        self.listed = placed.keys()  # int64 [m], user by user

    def alive(self, level: int, nodes: Tensor) -> Tensor:
        """Which nodes of ``level``, int64 [B, ...], lead to an allowed item: bool, same shape."""
        begin, end = self.trie.span(level, nodes.reshape(len(nodes), -1))
        users = torch.arange(len(nodes)).unsqueeze(1) * self.trie.n
        listed = torch.searchsorted(self.listed, users + end) - torch.searchsorted(self.listed, users + begin)
        left = listed if self.free_listed else end - begin - listed
        return (left > 0).reshape(nodes.shape)


def allowed_items(trie: SidTrie, users: int, prefix: Sequence[Tensor] | None, item_mask: Mask | None) -> Allowed | None:
    """Join mask and prefixes; None when everything may be named.

    Raises:
        InputError: a prefix of no item, or nothing left for a user.
    """
    if prefix is None and item_mask is None:
        return None
    nothing = torch.zeros(0, dtype=torch.int64)
    mask = ItemMask(nothing, nothing, (users, trie.n)) if item_mask is None else cells_of(item_mask)
    if prefix is not None:
        if len(prefix) != users:
            raise InputError(f"prefix holds {len(prefix)} tensors for {users} prompts: give one per prompt")
        mask = _within(trie, mask, prefix)
    allowed = Allowed(trie, mask)
    left = allowed.alive(0, torch.zeros(users, 1, dtype=torch.int64))
    if not left.all():
        user = int((~left).nonzero()[0, 0])
        raise InputError(f"row {user}: every item is masked, nothing can be recommended")
    return allowed


def parted(trie: SidTrie, prefix: Sequence[Tensor], mask: ItemMask) -> tuple[Allowed, Allowed]:
    """What may be named of the items below the prefixes of each user, and of all others; either may be nothing.

    Args:
        trie: the catalogue.
        prefix: per user int64 [m, depth < L], the first codes of what is within.
        mask: what may not be named, cells of [B, n].

    Raises:
        InputError: a prefix of no item.
    """
    below = _cells_below(trie, mask.shape, prefix)
    inside = ItemMask(below // trie.n, below % trie.n, mask.shape, free=True)
    masked = mask.keys()
    if mask.free:
        rest = masked[torch.isin(masked, below, assume_unique=True, invert=True)]
    else:
        rest = torch.cat([masked, below]).unique()
    outside = ItemMask(rest // trie.n, rest % trie.n, mask.shape, mask.free)
    return Allowed(trie, _without(inside, mask)), Allowed(trie, outside)


def _within(trie: SidTrie, mask: ItemMask, prefix: Sequence[Tensor]) -> ItemMask:
    """What ``mask`` leaves of the items below the prefixes of each user, as free cells."""
    below = _cells_below(trie, mask.shape, prefix)
    return _without(ItemMask(below // trie.n, below % trie.n, mask.shape, free=True), mask)


def _without(free: ItemMask, mask: ItemMask) -> ItemMask:
    """Free cells that a mask leaves free."""
    found = free.keys()
    found = found[torch.isin(found, mask.keys(), assume_unique=True, invert=not mask.free)]
    return ItemMask(found // mask.shape[1], found % mask.shape[1], mask.shape, free=True)


def _cells_below(trie: SidTrie, shape: tuple[int, int], prefix: Sequence[Tensor]) -> Tensor:
    """Items below the prefixes of each user, as ``ItemMask.keys`` gives them."""
    below = [_below(trie, user, codes) for user, codes in enumerate(prefix)]
    users = torch.arange(len(below)).repeat_interleave(torch.tensor([len(items) for items in below]))
    return ItemMask(users, torch.cat(below), shape).keys()


def _below(trie: SidTrie, user: int, codes: Tensor) -> Tensor:
    """Items that begin with one of the prefixes int64 [m, depth]: int64."""
    if codes.ndim != 2 or not 1 <= codes.shape[1] < trie.levels:
        raise InputError(
            f"row {user}: a prefix has 1 to {trie.levels - 1} codes, got a tensor of shape {tuple(codes.shape)}"
        )
    nodes = torch.zeros(len(codes), dtype=torch.int64)
    for level in range(codes.shape[1]):
        child, exists = trie.children(level, nodes.unsqueeze(0))  # [1, m, C]
        match = (exists & (trie.codes[level][child].long() == codes[:, level, None].cpu()))[0]
        if not match.any(1).all():
            unknown = codes[int((~match.any(1)).nonzero()[0])].tolist()
            raise InputError(f"row {user}: no item begins with the codes {unknown}")
        nodes = child[0].gather(1, match.int().argmax(1, keepdim=True)).squeeze(1)
    spans = zip(*(places.tolist() for places in trie.span(codes.shape[1], nodes)), strict=True)
    return torch.cat([trie.items[:0], *(trie.items[begin:end] for begin, end in spans)]).long()
