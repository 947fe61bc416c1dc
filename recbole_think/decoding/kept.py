"""What was read of a prompt, kept for the next time: one that begins alike goes on from there.

A person's next prompt is their last one and what they did since: its keys and values need not be computed again. On
two layers of SmolLM2-135M a token takes 3 KB in float32, on all thirty 46 KB, half of that in bfloat16.
B prompts, T tokens of the longest, N packed tokens that are new, S of them of one prompt at most, H query heads,
J key heads, h size of a head.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from recbole_think.decoding.attention import Part, packed_places


@dataclass(frozen=True)
class Kept:
    """Keys and values of one prompt."""

    tokens: np.ndarray  # int64 [T]
    layers: list[tuple[Tensor, Tensor]]  # of every layer keys and values, [J, T, h] each

    @property
    def nbytes(self) -> int:
        """Bytes of all of it."""
        return self.tokens.nbytes + sum(held.nbytes for pair in self.layers for held in pair)

    def shared_with(self, prompt: np.ndarray) -> int:
        """Tokens at the beginning of another prompt that need not be read again: all but its last at most."""
        most = min(len(self.tokens), len(prompt) - 1)
        other = np.flatnonzero(self.tokens[:most] != prompt[:most])
        return int(other[0]) if len(other) else most


def keep(prompt: np.ndarray, parts: Sequence[Sequence[Part]], row: int) -> Kept:
    """What a reader has read of one prompt of its batch.

    Args:
        prompt: int64 token ids.
        parts: of every layer, as ``packed.Branches`` has them right after the prompts.
        row: place of the prompt in the batch.
    """
    places = slice(0, len(prompt))
    return Kept(prompt, [(own[0].keys[row, :, places].clone(), own[0].values[row, :, places].clone()) for own in parts])


@dataclass(frozen=True)
class Rests:
    """How what is new of prompts lies behind what is known of them."""

    known: list[int]  # tokens of each prompt that were read before
    lengths: list[int]  # tokens of each that are new, at least one
    rows: Tensor  # int64 [N], prompt of each new token
    places: Tensor  # int64 [N], place among the new ones of its prompt
    positions: Tensor  # int64 [N], place in its prompt

    @classmethod
    def of(cls, known: list[int], lengths: list[int], device: torch.device) -> "Rests":
        """Lay out ``lengths`` new tokens behind ``known`` ones, prompt by prompt."""
        rows, places = packed_places(lengths, device)
        return cls(known, lengths, rows, places, torch.tensor(known, device=device)[rows] + places)

    @property
    def following(self) -> Tensor:
        """Position of the next token of each prompt: int64 [B]."""
        return torch.tensor(self.known, device=self.rows.device) + torch.tensor(self.lengths, device=self.rows.device)

    @property
    def ends(self) -> Tensor:
        """Place of each prompt's last token among the packed ones: int64 [B]."""
        return torch.tensor(self.lengths, device=self.rows.device).cumsum(0) - 1

    def part(self, keys: Tensor, values: Tensor, before: Sequence[tuple[Tensor, Tensor] | None]) -> Part:
        """Keys and values [N, J, h] of new tokens behind those [J, at least known, h] of each prompt, as one part."""
        following, longest = self.following, max(map(sum, zip(self.known, self.lengths, strict=True)))
        places = torch.arange(longest, device=keys.device)
        unseen = None if int(following.min()) == longest else places >= following.unsqueeze(1)
        filled = [self._filled(new, before, which, longest) for which, new in enumerate((keys, values))]
        return Part(filled[0], filled[1], unseen)

    def _filled(self, new: Tensor, before: Sequence[tuple[Tensor, Tensor] | None], which: int, longest: int) -> Tensor:
        padded = new.new_zeros(len(self.known), new.shape[1], longest, new.shape[2])
        for row, (count, held) in enumerate(zip(self.known, before, strict=True)):
            if held is not None:
                padded[row, :, :count] = held[which][:, :count]
        padded.transpose(1, 2)[self.rows, self.positions] = new
        return padded

    def attend(self, queries: Tensor, part: Part, scaling: float) -> Tensor:
        """Causal attention of new tokens over all of their prompts: [N, H, h] -> [N, H, h]."""
        padded = queries.new_zeros(len(self.known), max(self.lengths), *queries.shape[1:])
        padded[self.rows, self.places] = queries
        seen = torch.zeros(
            len(self.known), max(self.lengths), part.keys.shape[2], dtype=torch.bool, device=self.rows.device
        )
        seen[self.rows, self.places] = torch.arange(seen.shape[2], device=seen.device) <= self.positions.unsqueeze(1)
        seen[..., 0] = True  # of places that hold no token nothing is read, and the sum of nothing is not a number
        found = functional.scaled_dot_product_attention(
            padded.transpose(1, 2), part.keys, part.values, seen.unsqueeze(1), scale=scaling, enable_gqa=True
        )  # [B, H, S, h]
        return found.transpose(1, 2)[self.rows, self.places]
