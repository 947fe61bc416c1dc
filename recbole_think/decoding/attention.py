"""Attention over keys that many rows share: each part of a context exists once, however many branches look at it.

A context is a list of parts, from the prompt (one per user) to the branch's own tokens. Every part is attended by
itself and the outcomes are joined by their log-sum-exp, so nothing is copied or concatenated (cascade attention).

G groups that own a part, R rows (branches, R / G of them share a part, consecutive), S positions of a part,
N packed tokens, H query heads, J key heads, h size of a head.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

BLOCK = 128  # queries of a prompt attended together on a CPU: their scores stay in the cache


@dataclass(frozen=True)
class Part:
    """Keys and values of S positions, for each of G groups, in one layer."""

    keys: Tensor  # [G, J, S, h]
    values: Tensor  # [G, J, S, h]
    unseen: Tensor | None = None  # bool [G, S], True = not there; None = all are there
    room: tuple[Tensor, Tensor] | None = None  # larger tensors of which keys and values are the beginning


def grown(own: Part | None, chosen: Tensor | None, keys: Tensor, values: Tensor, ended: Tensor | None) -> Part:
    """A part of the branches' own with one more position.

    Args:
        own: what they have; None at first.
        chosen: int64 [R], the branch each of the new ones continues; None = itself, in place where there is room.
        keys: [R, J, h] of the new position.
        values: [R, J, h].
        ended: bool [R], True = this branch reads nothing here; None = all read.
    """
    keys, values = keys.unsqueeze(2), values.unsqueeze(2)
    if own is None:
        return Part(keys, values, None if ended is None else ended.unsqueeze(1))
    used = own.keys.shape[2]
    if chosen is None:
        room = own.room if own.room and own.room[0].shape[2] > used else (_wider(own.keys), _wider(own.values))
        for wide, new in zip(room, (keys, values), strict=True):
            wide[:, :, used : used + 1] = new
        held = [wide[:, :, : used + 1] for wide in room]
    else:
        room = None
        held = [torch.cat([old[chosen], new], dim=2) for old, new in ((own.keys, keys), (own.values, values))]
    unseen = own.unseen if own.unseen is None or chosen is None else own.unseen[chosen]
    if unseen is not None or ended is not None:
        none = keys.new_zeros(len(keys), used, dtype=torch.bool)
        before = none if unseen is None else unseen
        unseen = torch.cat([before, (none.new_zeros(len(keys)) if ended is None else ended).unsqueeze(1)], dim=1)
    return Part(held[0], held[1], unseen, room)


def _wider(held: Tensor) -> Tensor:
    """The same positions with room for as many again."""
    used = held.shape[2]
    wide = held.new_empty(*held.shape[:2], max(2 * used, 16), held.shape[3])
    wide[:, :, :used] = held
    return wide


def attend_shared(queries: Tensor, parts: Sequence[Part], scaling: float) -> Tensor:
    """Attend one token per row over all parts: [R, H, h] -> [R, H, h]."""
    outcomes, weights = zip(*(_over_part(queries, part, scaling) for part in parts), strict=True)
    if len(parts) == 1:
        return outcomes[0].to(queries.dtype)
    share = torch.stack(weights).softmax(0).unsqueeze(-1)  # [parts, R, H, 1]
    return (torch.stack(outcomes) * share).sum(0).to(queries.dtype)


def _over_part(queries: Tensor, part: Part, scaling: float) -> tuple[Tensor, Tensor]:
    """Outcome [R, H, h] and log-sum-exp [R, H] of one part, float32."""
    (rows, heads, size), (groups, shared, _, _) = queries.shape, part.keys.shape
    each, fold = rows // groups, heads // shared
    asked = queries.view(groups, each, shared, fold, size).transpose(1, 2).reshape(groups, shared, each * fold, size)
    scores = torch.matmul(asked, part.keys.transpose(-1, -2)).float().mul_(scaling)  # [G, J, each * fold, S]
    if part.unseen is not None:
        scores.masked_fill_(part.unseen[:, None, None], -torch.inf)
    # a group may see nothing of a part yet: its weight is then 0, and its outcome any finite number
    weight = scores.logsumexp(-1)  # [G, J, each * fold]
    share = (scores - weight.nan_to_num(neginf=0.0).unsqueeze(-1)).exp_()
    outcome = torch.matmul(share.to(part.values.dtype), part.values).float()

    def by_row(found: Tensor) -> Tensor:
        return found.view(groups, shared, each, fold, -1).transpose(1, 2).reshape(rows, heads, -1)

    return by_row(outcome), by_row(weight).squeeze(-1)


def attend_prompts(queries: Tensor, keys: Tensor, values: Tensor, lengths: list[int], scaling: float) -> Tensor:
    """Causal attention within each prompt of a packed row.

    Args:
        queries: [N, H, h].
        keys: [N, J, h].
        values: [N, J, h].
        lengths: tokens of each prompt, N in all.
        scaling: of the scores.

    Returns:
        [N, H, h].
    """
    if queries.device.type != "cpu":
        return _padded(queries, keys, values, lengths, scaling)
    mixed = torch.empty_like(queries)
    begin = 0
    for length in lengths:
        span = slice(begin, begin + length)
        _causal(queries[span], keys[span].transpose(0, 1), values[span].transpose(0, 1), scaling, mixed[span])
        begin += length
    return mixed


def _causal(queries: Tensor, keys: Tensor, values: Tensor, scaling: float, mixed: Tensor) -> None:
    """One prompt of T tokens, block by block: plain products beat the fused kernel on a CPU, twice in bfloat16."""
    shared, length, size = keys.shape
    fold = queries.shape[1] // shared
    for begin in range(0, length, BLOCK):
        end = min(begin + BLOCK, length)
        asked = queries[begin:end].view(end - begin, shared, fold, size).permute(1, 2, 0, 3)
        asked = asked.reshape(shared, fold * (end - begin), size)
        scores = torch.matmul(asked, keys[:, :end].transpose(-1, -2)).float().mul_(scaling)
        square = scores.view(shared, fold, end - begin, end)[..., begin:]
        later = torch.ones(end - begin, end - begin, dtype=torch.bool, device=keys.device).triu_(1)
        square.masked_fill_(later, -torch.inf)
        found = torch.matmul(scores.softmax(-1).to(values.dtype), values[:, :end])
        mixed[begin:end] = found.view(shared, fold, end - begin, size).permute(2, 0, 1, 3).flatten(1, 2)


def _padded(queries: Tensor, keys: Tensor, values: Tensor, lengths: list[int], scaling: float) -> Tensor:
    """The same through the fused kernel: prompts padded on the right, where a causal mask never looks."""
    rows, places = packed_places(lengths, queries.device)

    def unpack(packed: Tensor) -> Tensor:
        padded = packed.new_zeros(len(lengths), max(lengths), *packed.shape[1:])
        padded[rows, places] = packed
        return padded.transpose(1, 2)  # [B, heads, T, h]

    found = functional.scaled_dot_product_attention(
        unpack(queries), unpack(keys), unpack(values), is_causal=True, scale=scaling, enable_gqa=True
    )
    return found.transpose(1, 2)[rows, places]


def packed_places(lengths: list[int], device: torch.device) -> tuple[Tensor, Tensor]:
    """Prompt and place in it of every packed token: two int64 [N]."""
    counts = torch.tensor(lengths)
    rows = torch.arange(len(lengths)).repeat_interleave(counts)
    places = torch.arange(int(counts.sum())) - (counts.cumsum(0) - counts).repeat_interleave(counts)
    return rows.to(device), places.to(device)


def flat_parents(parent: Tensor, before: int) -> Tensor:
    """Parents [R, K] within rows of ``before`` branches each, as places in all of them: [R * K]."""
    return (parent + torch.arange(len(parent), device=parent.device).unsqueeze(1) * before).flatten()
