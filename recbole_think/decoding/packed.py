"""The fast reader: walks the layers of a known family through the model's own modules.

Prompts are packed without padding, their keys and values are shared by all branches (``attention.py``), the last layer
is computed only where somebody looks, and the residual stream stays float32 in any precision of the products.

B prompts, T tokens of the longest, N packed tokens, R rows (B or a multiple), K branches of a row, d hidden size.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recbole_think.decoding.attention import Part, attend_prompts, attend_shared, flat_parents, grown, packed_places
from recbole_think.decoding.kept import Kept, Rests


@dataclass(frozen=True)
class Branches:
    """Where the packed reader goes on: what is before it, in every layer."""

    parts: list[list[Part]]  # per layer, from the prompt on; the last is the branches' own, once they have one
    positions: Tensor  # int64 [branches], position of the next token
    depth: int = 0  # tokens of the branches' own


class PackedReader:
    """Walks the layers of a known family."""

    def __init__(self, model: Any):
        self.model, self.decoder = model, model.get_decoder()
        self.layers = self.decoder.layers
        weight = self.layers[0].mlp.down_proj.weight
        self.device = weight.device
        on = torch.is_autocast_enabled(self.device.type)
        self.dtype = torch.get_autocast_dtype(self.device.type) if on else weight.dtype

    def prompts(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Branches]:
        """See ``Reader``."""
        mask = attention_mask.bool()
        lengths = mask.sum(1).tolist()
        rows, places = packed_places(lengths, self.device)
        hidden = self._embed(input_ids[mask].to(self.device))  # [N, d]
        ropes = self._ropes(hidden, places)
        ends = torch.tensor(lengths).cumsum(0).to(self.device) - 1
        unseen = _behind_ends(lengths, self.device)
        parts = []
        for number, layer in enumerate(self.layers):
            last = number + 1 == len(self.layers)
            asking = ends if last else slice(None)  # of the last layer nobody sees more than the ends
            rope = ropes[self._kind(layer)]
            inputs = layer.input_layernorm(hidden).to(self.dtype)
            keys, values = self._keys_values(layer.self_attn, inputs, rope)
            part = _unpacked(keys, values, rows, places, unseen, (len(lengths), max(lengths)))
            queries = self._queries(layer.self_attn, inputs[asking], tuple(turn[asking] for turn in rope))
            scaling = layer.self_attn.scaling
            mixed = (
                attend_shared(queries, [part], scaling)
                if last
                else attend_prompts(queries, keys, values, lengths, scaling)
            )
            hidden = self._finish(layer, hidden[asking], mixed)
            parts.append([part])
        following = torch.tensor(lengths, device=self.device)
        return self.decoder.norm(hidden).unsqueeze(1), Branches(parts, following)

    def resume(self, read: Sequence[Kept | None], prompts: Sequence[np.ndarray]) -> tuple[Tensor, Branches]:
        """Read prompts of which the beginnings were read before; at least the last token of each is read again.

        Args:
            read: what was kept of each prompt or of another that begins alike; None = nothing.
            prompts: B times int64 token ids.

        Returns:
            As ``prompts``.
        """
        known = [0 if one is None else one.shared_with(prompt) for one, prompt in zip(read, prompts, strict=True)]
        rests = [prompt[begin:] for prompt, begin in zip(prompts, known, strict=True)]
        asked = Rests.of(known, [len(rest) for rest in rests], self.device)
        hidden = self._embed(torch.from_numpy(np.concatenate(rests)).to(self.device))  # [N, d], what is new
        ropes = self._ropes(hidden, asked.positions)
        parts = []
        for number, layer in enumerate(self.layers):
            last = number + 1 == len(self.layers)
            rope = ropes[self._kind(layer)]
            inputs = layer.input_layernorm(hidden).to(self.dtype)
            keys, values = self._keys_values(layer.self_attn, inputs, rope)
            before = [None if one is None else one.layers[number] for one in read]
            part = asked.part(keys, values, before)
            queries = self._queries(layer.self_attn, inputs, rope)
            mixed = asked.attend(queries, part, layer.self_attn.scaling)
            if last:  # nobody sees more than the ends
                hidden, mixed = hidden[asked.ends], mixed[asked.ends]
            hidden = self._finish(layer, hidden, mixed)
            parts.append([part])
        return self.decoder.norm(hidden).unsqueeze(1), Branches(parts, asked.following)

    def step(
        self, at: Branches, tokens: Tensor, parent: Tensor | None, live: Tensor | None = None
    ) -> tuple[Tensor, Branches]:
        """See ``Reader``."""
        rows, branches = tokens.shape
        chosen = None if parent is None else flat_parents(parent.to(self.device), len(at.positions) // rows)
        positions = at.positions if chosen is None else at.positions[chosen]
        hidden = self._embed(tokens.to(self.device).flatten())  # [R * K, d]
        ropes = self._ropes(hidden, positions)
        ended = None if live is None or live.all() else ~live.to(self.device).flatten()
        parts = []
        for layer, known in zip(self.layers, at.parts, strict=True):
            rope = ropes[self._kind(layer)]
            inputs = layer.input_layernorm(hidden).to(self.dtype)
            keys, values = self._keys_values(layer.self_attn, inputs, rope)
            shared, own = (known[:-1], known[-1]) if at.depth else (known, None)
            now = [*shared, grown(own, chosen, keys, values, ended)]
            queries = self._queries(layer.self_attn, inputs, rope)
            hidden = self._finish(layer, hidden, attend_shared(queries, now, layer.self_attn.scaling))
            parts.append(now)
        hidden = self.decoder.norm(hidden).view(rows, branches, -1)
        read = 1 if ended is None else (~ended).long()
        return hidden, Branches(parts, positions + read, at.depth + 1)

    def opened(self, at: Branches) -> Branches:
        """See ``Reader``."""
        return replace(at, depth=0)

    def _embed(self, ids: Tensor) -> Tensor:
        return self.model.get_input_embeddings()(ids).float()

    def _ropes(self, hidden: Tensor, positions: Tensor) -> dict[str | None, tuple[Tensor, Tensor]]:
        """Cosines and sines of the positions, float32 [N, 1, h], by kind of layer (Gemma 3 turns them differently)."""
        found = {}
        for kind in {self._kind(layer) for layer in self.layers}:
            turned = self.decoder.rotary_emb(hidden, positions.unsqueeze(0), *([kind] if kind else []))
            found[kind] = tuple(turn[0].unsqueeze(1) for turn in turned)
        return found

    def _kind(self, layer: Any) -> str | None:
        return layer.self_attn.layer_type if self.model.config.model_type == "gemma3_text" else None

    def _keys_values(self, attention: Any, inputs: Tensor, rope) -> tuple[Tensor, Tensor]:
        keys = attention.k_proj(inputs).unflatten(-1, (-1, attention.head_dim))
        values = attention.v_proj(inputs).unflatten(-1, (-1, attention.head_dim))
        return self._turned(keys, getattr(attention, "k_norm", None), rope), values

    def _queries(self, attention: Any, inputs: Tensor, rope) -> Tensor:
        queries = attention.q_proj(inputs).unflatten(-1, (-1, attention.head_dim))
        return self._turned(queries, getattr(attention, "q_norm", None), rope)

    def _turned(self, heads: Tensor, norm: Any, rope) -> Tensor:
        """Rotary position embedding of [N, heads, h]."""
        heads = (heads if norm is None else norm(heads)).float()
        left, right = heads.chunk(2, dim=-1)
        return (heads * rope[0] + torch.cat((-right, left), dim=-1) * rope[1]).to(self.dtype)

    def _finish(self, layer: Any, hidden: Tensor, mixed: Tensor) -> Tensor:
        """Output projection, feed-forward and their norms, on the residual stream: [N, d], float32."""
        sandwiched = hasattr(layer, "pre_feedforward_layernorm")  # Gemma 3
        given = layer.self_attn.o_proj(mixed.flatten(1)).float()
        hidden = hidden + (layer.post_attention_layernorm(given) if sandwiched else given)
        norm = layer.pre_feedforward_layernorm if sandwiched else layer.post_attention_layernorm
        given = layer.mlp(norm(hidden).to(self.dtype)).float()
        return hidden + (layer.post_feedforward_layernorm(given) if sandwiched else given)


def _behind_ends(lengths: list[int], device: torch.device) -> Tensor | None:
    """Places of prompts padded on the right that hold nothing: bool [B, T]; None if all are full."""
    if min(lengths) == max(lengths):
        return None
    return (torch.arange(max(lengths)) >= torch.tensor(lengths).unsqueeze(1)).to(device)


def _unpacked(
    keys: Tensor, values: Tensor, rows: Tensor, places: Tensor, unseen: Tensor | None, shape: tuple[int, int]
) -> Part:  # fmt: skip
    """Keys and values of packed prompts [N, J, h] as a part, padded on the right: [B, J, T, h]."""

    def unpack(packed: Tensor) -> Tensor:
        padded = packed.new_zeros(shape[0], packed.shape[1], shape[1], packed.shape[2])
        padded.transpose(1, 2)[rows, places] = packed
        return padded

    return Part(unpack(keys), unpack(values), unseen)
