"""The log-probability of every item, exactly: the whole trie is read, shared prefixes once.

The reference a beam search is judged by, and affordable where the catalogue is small: as many tokens are read per user
as the trie has inner nodes. Goes down branch by branch, so that no more than ``rows`` of them are held at a level.
B users, M nodes, C children, d hidden size, n items.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from recbole_think.decoding.beam import Search, require_prompts, require_search
from recbole_think.decoding.reading import reader_of
from recbole_think.decoding.trie import SidTrie


@torch.no_grad()
def score_items(
    model: Any,
    input_ids: Tensor,
    attention_mask: Tensor,
    trie: SidTrie,
    code_tokens: list[Tensor],
    normalize: str = "vocab",
    rows: int = 4096,
) -> Tensor:
    """Score the whole catalogue after each prompt.

    Args:
        model: causal LM whose output embeddings know the itemic tokens.
        input_ids: int64 [B, T], left-padded.
        attention_mask: int64 [B, T].
        trie: the catalogue.
        code_tokens: L int64 tensors, token id of every code of that level.
        normalize: as in ``beam_search``.
        rows: most branches read together; memory grows with it.

    Returns:
        float32 [B, n], log-probability of item row + 1.

    Raises:
        InputError: sizes that do not fit.
        FloatingPointError: the model gives logits that are not numbers.
    """
    require_search(trie, code_tokens, 1, normalize)
    require_prompts(trie, input_ids, attention_mask, None)
    reader = reader_of(model, input_ids.shape[1] + trie.levels)
    hidden, at = reader.prompts(input_ids, attention_mask)
    users = len(input_ids)
    found = torch.empty(users, trie.n)
    descent = _Descent(Search(model, reader, trie, code_tokens, normalize), max(1, rows // users), found)
    descent.below(0, torch.zeros(1, dtype=torch.int64), hidden, at, torch.zeros(users, 1))
    return found


@dataclass(frozen=True)
class _Descent:
    """A walk through all of the trie."""

    fixed: Search
    together: int  # nodes read at once
    found: Tensor  # float32 [B, n], filled leaf by leaf

    def below(self, level: int, nodes: Tensor, hidden: Tensor, at: Any, total: Tensor) -> None:
        """Score what is below ``nodes`` [M], reached with log-probability ``total`` [B, M]."""
        fixed, users = self.fixed, len(hidden)
        exists = fixed.trie.children(level, nodes.unsqueeze(0))[1][0]  # [M, C], the same for all users
        child, code, gained = fixed.expand(level, nodes.expand(users, -1), hidden, None)
        scores = (total.unsqueeze(-1) + gained)[:, exists]  # [B, X]
        child, code, parent = child[0][exists], code[0][exists], exists.nonzero()[:, 0]  # [X] each
        if level + 1 == fixed.trie.levels:
            self.found[:, fixed.trie.item(child)] = scores
            return
        for some in torch.arange(len(child)).split(self.together):
            tokens = fixed.code_tokens[level][code[some]].expand(users, -1)
            deeper, place = fixed.reader.step(at, tokens, parent[some].expand(users, -1))
            self.below(level + 1, child[some], deeper, place, scores[:, some])


@torch.no_grad()
def score_targets(fixed: Search, hidden: Tensor, at: Any, items: Tensor) -> Tensor:
    """Score one item after each row, from where the reader stands; ``at`` stays usable.

    Args:
        fixed: model, catalogue and normalisation.
        hidden: [R, 1, d], what the first code is predicted from.
        at: the reader's place, of R rows.
        items: int64 [R], rows of the catalogue.

    Returns:
        float32 [R], log-probabilities.
    """
    trie, rows = fixed.trie, len(items)
    leaves = trie.places[items].long()
    nodes, total = torch.zeros(rows, 1, dtype=torch.int64), torch.zeros(rows)
    for level in range(trie.levels):
        child, code, gained = fixed.expand(level, nodes, hidden, None)
        begin, end = trie.span(level + 1, child[:, 0])
        chosen = ((begin <= leaves[:, None]) & (leaves[:, None] < end)).int().argmax(1, keepdim=True)  # [R, 1]
        total += gained[:, 0].gather(1, chosen).squeeze(1)
        nodes = child[:, 0].gather(1, chosen)
        if level + 1 < trie.levels:
            tokens = fixed.code_tokens[level][code[:, 0].gather(1, chosen)]
            hidden, at = fixed.reader.step(at, tokens, torch.zeros_like(nodes))
    return total
