"""The reader of any Hugging Face causal LM: branches are further positions of the prompt's row.

A 4-D mask shows each branch the prompt, its own ancestors and itself (tree attention), so that the model's own forward
pass runs unchanged. Slower than ``packed.py``, and equal.

B prompts, R rows (B or a multiple), K branches of a row, d hidden size.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from recbole_think.decoding.attention import flat_parents


@dataclass(frozen=True)
class Places:
    """Where the masked reader goes on."""

    seen: Tensor  # bool [B, branches, positions]: what each branch may look at
    positions: Tensor  # int64 [B, branches], position of the next token


class MaskedReader:
    """Reads branches as further positions of the prompt's row, with a mask that shows each its own ancestors."""

    def __init__(self, model: Any):
        self.model, self.decoder = model, model.get_decoder()
        self.device = next(model.parameters()).device
        self.cache: Any = None

    def prompts(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Places]:
        """See ``Reader``."""
        mask = attention_mask.to(self.device).bool()
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        out = self.decoder(
            input_ids=input_ids.to(self.device), attention_mask=mask.long(), position_ids=positions, use_cache=True
        )
        self.cache = out.past_key_values
        return out.last_hidden_state[:, -1:], Places(mask.unsqueeze(1), mask.sum(1, keepdim=True))

    def step(
        self, at: Places, tokens: Tensor, parent: Tensor | None, live: Tensor | None = None
    ) -> tuple[Tensor, Places]:
        """See ``Reader``."""
        tokens = tokens.to(self.device)
        (rows, branches), (batch, before, length) = tokens.shape, at.seen.shape
        each = rows * branches // batch  # branches of a prompt
        if parent is None:
            parent = torch.arange(branches).expand(rows, -1)
        chosen = flat_parents(parent.to(self.device), before * batch // rows).view(batch, each)
        chosen = chosen - torch.arange(batch, device=self.device).unsqueeze(1) * before
        behind = self.cache.get_seq_length() - length
        if behind > 0:
            self.cache.crop(-behind)  # what was read after this place, down another path
        reads = torch.ones_like(tokens, dtype=torch.bool) if live is None else live.to(self.device)
        inherited = at.seen.gather(1, chosen.unsqueeze(-1).expand(-1, -1, length))
        seen = torch.cat([inherited, torch.diag_embed(reads.view(batch, each))], dim=2)
        positions = at.positions.gather(1, chosen)
        out = self.decoder(
            input_ids=tokens.view(batch, -1),
            attention_mask=_additive(seen, self.model.dtype),
            position_ids=positions,
            past_key_values=self.cache,
            use_cache=True,
        )
        return out.last_hidden_state.view(rows, branches, -1), Places(seen, positions + reads.view(batch, each).long())

    def opened(self, at: Places) -> Places:
        """See ``Reader``."""
        return at


def _additive(seen: Tensor, dtype: torch.dtype) -> Tensor:
    """Mask [B, K, positions] as numbers to add, [B, 1, K, positions]: every attention kind reads this form alike."""
    mask = torch.zeros(seen.shape, dtype=dtype, device=seen.device)
    return mask.masked_fill(~seen, torch.finfo(mask.dtype).min).unsqueeze(1)
