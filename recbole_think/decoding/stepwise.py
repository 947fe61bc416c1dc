"""Trie beams on an engine whose logits are elsewhere: one question a level, the search itself is ``beam.py``'s.

vLLM's own beam search takes no trie, and its structured outputs constrain text, so that an answer may spell ``<a_2>``
with ordinary tokens: right text, wrong ids. So the engine is asked what every code of a level is worth after each beam,
and the trie stays here. Prompts and their beginnings are cached by the engine.
B users, K beams, C children, S codes of a level.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recbole_think.decoding.allowed import allowed_items
from recbole_think.decoding.beam import BeamResult, Search, require_search, search
from recbole_think.decoding.engine import CodeEngine
from recbole_think.decoding.item_mask import Mask
from recbole_think.decoding.trie import SidTrie
from recbole_think.errors import InputError

Read = list[list[list[int]]]  # [B][K], token ids read so far


class Script:
    """Remembers what each beam has said: the reader of an engine that reads by itself."""

    def step(self, at: Read, tokens: Tensor, parent: Tensor) -> tuple[Read, Read]:
        """Add a token to each beam; see ``reading.Reader.step``."""
        rows = zip(at, tokens.tolist(), parent.tolist(), strict=True)
        read = [[[*row[beam], token] for token, beam in zip(said, parents, strict=True)] for row, said, parents in rows]
        return read, read


@dataclass(frozen=True)
class StepwiseSearch(Search):
    """A search whose model is an engine."""

    def scores(self, level: int, hidden: Any, code: Tensor, legal: Tensor) -> Tensor:
        """Log-probability of children [B, K, C] after what was read [B][K]; each beginning is asked for once."""
        flat = [tuple(beam) for row in hidden for beam in row]
        known = {prompt: row for row, prompt in enumerate(dict.fromkeys(flat))}
        found = self.model.code_log_probs(list(known), self.code_tokens[level].tolist())
        of_beams = torch.from_numpy(found)[[known[prompt] for prompt in flat]].view(*code.shape[:2], -1)
        of_children = of_beams.gather(2, code).masked_fill(~legal, -torch.inf)
        if self.normalize == "valid":
            return of_children - of_children.logsumexp(-1, keepdim=True).nan_to_num(neginf=0.0)
        return of_children


def stepwise_search(
    engine: CodeEngine,
    prompts: Sequence[np.ndarray],
    trie: SidTrie,
    code_tokens: list[Tensor],
    num_beams: int,
    normalize: str,
    item_mask: Mask | None = None,
) -> BeamResult:
    """Find the ``num_beams`` most likely items after each prompt; see ``beam.beam_search``.

    Args:
        engine: what is asked.
        prompts: B times int64 token ids.
        trie: the catalogue.
        code_tokens: L int64 tensors, token id of every code of that level.
        num_beams: K.
        normalize: ``level`` or ``valid``.
        item_mask: bool [B, n], True = may not be named, or its cells.

    Raises:
        InputError: sizes that do not fit, ``normalize=vocab``, or nothing left for a user.
    """
    require_search(trie, code_tokens, num_beams, normalize)
    if normalize == "vocab":
        raise InputError("normalize=vocab compares codes with words, of which an engine gives no probabilities")
    allowed = allowed_items(trie, len(prompts), None, item_mask)
    read: Read = [[prompt.tolist()] for prompt in prompts]
    fixed = StepwiseSearch(engine, Script(), trie, code_tokens, normalize)
    return search(fixed, read, read, num_beams, allowed)
