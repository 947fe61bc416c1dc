"""What may be named: masked items and allowed prefixes as one mask over the catalogue, asked node by node.

Prefixes become the ranges of items below them, so that a search under prefixes and a search under the mask of all other
items are the same search, in any normalisation. B users, n items, L levels.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from recbole_think.decoding.trie import SidTrie
from recbole_think.errors import InputError


class Allowed:
    """Tells which nodes of the trie still lead to an item that may be named.

    Keeps the sorted places of what is masked, or of what is free if that is less: a history of fifty items costs fifty
    numbers, however large the catalogue.
    """

    def __init__(self, trie: SidTrie, mask: Tensor):
        """Gather once; ``mask`` is bool [B, n], True = may not be named."""
        self.trie = trie
        self.free_listed = 2 * int(mask.count_nonzero()) > mask.numel()
        users, items = (~mask if self.free_listed else mask).nonzero(as_tuple=True)
        self.listed = (users * trie.n + trie.places[items]).sort().values  # int64 [m], user by user

    def alive(self, level: int, nodes: Tensor) -> Tensor:
        """Which nodes of ``level``, int64 [B, ...], lead to an allowed item: bool, same shape."""
        begin, end = self.trie.span(level, nodes.reshape(len(nodes), -1))
        users = torch.arange(len(nodes)).unsqueeze(1) * self.trie.n
        listed = torch.searchsorted(self.listed, users + end) - torch.searchsorted(self.listed, users + begin)
        left = listed if self.free_listed else end - begin - listed
        return (left > 0).reshape(nodes.shape)


def allowed_items(
    trie: SidTrie, users: int, prefix: Sequence[Tensor] | None, item_mask: Tensor | None
) -> Allowed | None:
    """Join mask and prefixes; None when everything may be named.

    Raises:
        InputError: a prefix of no item, or nothing left for a user.
    """
    if prefix is None and item_mask is None:
        return None
    mask = torch.zeros(users, trie.n, dtype=torch.bool) if item_mask is None else item_mask.cpu()
    if prefix is not None:
        if len(prefix) != users:
            raise InputError(f"prefix holds {len(prefix)} tensors for {users} prompts: give one per prompt")
        mask = mask | ~torch.stack([_below(trie, user, codes) for user, codes in enumerate(prefix)])
    if mask.all(1).any():
        user = int(mask.all(1).nonzero()[0])
        raise InputError(f"row {user}: every item is masked, nothing can be recommended")
    return Allowed(trie, mask)


def _below(trie: SidTrie, user: int, codes: Tensor) -> Tensor:
    """Items that begin with one of the prefixes int64 [m, depth]: bool [n]."""
    if codes.ndim != 2 or not 1 <= codes.shape[1] < trie.levels:
        raise InputError(
            f"row {user}: a prefix has 1 to {trie.levels - 1} codes, got a tensor of shape {tuple(codes.shape)}"
        )
    found = torch.zeros(trie.n, dtype=torch.bool)
    nodes = torch.zeros(len(codes), dtype=torch.int64)
    for level in range(codes.shape[1]):
        child, exists = trie.children(level, nodes.unsqueeze(0))  # [1, m, C]
        match = (exists & (trie.codes[level][child].long() == codes[:, level, None].cpu()))[0]
        if not match.any(1).all():
            unknown = codes[int((~match.any(1)).nonzero()[0])].tolist()
            raise InputError(f"row {user}: no item begins with the codes {unknown}")
        nodes = child[0].gather(1, match.int().argmax(1, keepdim=True)).squeeze(1)
    for begin, end in zip(*(places.tolist() for places in trie.span(codes.shape[1], nodes)), strict=True):
        found[trie.items[begin:end].long()] = True
    return found
