"""How a T5 reads for the beam search: the history once, all beams of a user as one row of the decoder.

A beam's tokens see their own ancestors alone, so that keys and values of the history are made once for all beams; with
three or four levels an item, reading the few tokens of all beams again at every level costs less than keeping them.
B users, T tokens of a history, K beams, P tokens of all beams, d width, H heads.
"""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

NEVER = torch.finfo(torch.float32).min


@dataclass(frozen=True)
class Place:
    """Where beams stand."""

    encoded: Tensor  # [B, T, d]
    masked: Tensor  # [B, 1, 1, T], added to attention scores: 0 or NEVER
    tokens: Tensor  # int64 [B, P], of all beams so far, level by level; the first is where all begin
    sees: Tensor  # bool [B, P, P], which of them each one reads
    depths: tuple[int, ...]  # level of each
    last: int  # how many make up the last level


@dataclass(frozen=True)
class T5Reader:
    """What reads for the search (``decoding/reading.py``), with a T5's encoder and decoder."""

    model: Any  # T5ForConditionalGeneration
    begin: int  # token an answer begins with

    def prompts(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Place]:
        """Read histories, int64 [B, T], padded on either side; return what the first code is predicted from."""
        encoded = self.model.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        nothing = torch.zeros(attention_mask.shape, device=attention_mask.device)
        masked = nothing.masked_fill(attention_mask == 0, NEVER)[:, None, None]
        begin = torch.full((len(input_ids), 1), self.begin)
        at = Place(encoded, masked.to(encoded), begin.to(input_ids), torch.ones(len(input_ids), 1, 1) > 0, (0,), 1)
        return self._read(at), at

    def step(self, at: Place, tokens: Tensor, parent: Tensor | None, live: Tensor | None = None) -> tuple[Tensor, Any]:
        """See ``Reader``: one token more for each of K branches."""
        users, beams = tokens.shape
        before = at.tokens.shape[1]
        if parent is None:
            parent = torch.arange(beams).expand(users, -1)
        above = before - at.last + parent  # [B, K]
        inherited = at.sees.gather(1, above.unsqueeze(-1).expand(-1, -1, before))  # [B, K, P]
        own = torch.eye(beams, dtype=torch.bool).expand(users, -1, -1)
        unseen = torch.zeros(users, before, beams, dtype=torch.bool)
        sees = torch.cat([torch.cat([at.sees, unseen], 2), torch.cat([inherited, own], 2)], 1)
        deeper = (*at.depths, *[at.depths[-1] + 1] * beams)
        longer = torch.cat([at.tokens, tokens.to(at.tokens)], 1)
        place = replace(at, tokens=longer, sees=sees, depths=deeper, last=beams)
        return self._read(place), place

    def opened(self, at: Any) -> Any:
        """Branches as rows of their own: what thoughts need, which a T5 does not have."""
        raise RuntimeError("a T5 does not think")

    def _read(self, at: Place) -> Tensor:
        """Hidden states of the last level: [B, K, d]."""
        decoder = self.model.decoder
        state = decoder.embed_tokens(at.tokens)
        mask = torch.zeros(at.sees.shape).masked_fill(~at.sees, NEVER).unsqueeze(1).to(state)  # [B, 1, P, P]
        bias = self._bias(torch.tensor(at.depths)).to(state)
        for block in decoder.block:
            state, *_ = block(
                state, attention_mask=mask, position_bias=bias, encoder_hidden_states=at.encoded,
                encoder_attention_mask=at.masked,
            )  # fmt: skip
        return ready(self.model, decoder.final_layer_norm(state[:, -at.last :]))

    def _bias(self, depths: Tensor) -> Tensor:
        """T5's learnt bias by distance, which is one of levels and not of places in the row: [1, H, P, P]."""
        attention = self.model.decoder.block[0].layer[0].SelfAttention
        farthest = int(depths.max()) + 1
        table = attention.compute_bias(farthest, farthest)[0]  # [H, levels, levels]
        return table[:, depths[:, None], depths[None, :]].unsqueeze(0)


def ready(model: Any, hidden: Tensor) -> Tensor:
    """Hidden states as the head wants them: a T5 whose head is its embeddings makes them smaller before it."""
    return hidden * model.config.d_model**-0.5 if model.config.scale_decoder_outputs else hidden
