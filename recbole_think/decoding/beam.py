"""Batched constrained beam search: one prefill per user, beams as branches of one sequence.

The beams of a user are not copies of the prompt: they are further positions of the same row, and a 4-D attention mask
lets each see the prompt, its own ancestors and itself (tree attention). The prompt's keys and values exist once, memory
grows with tokens + beams, and any Hugging Face causal LM that takes a 4-D mask runs unchanged.

B users, T prompt tokens, K beams, S codes of a level, C largest number of children, L levels.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from recbole_think.decoding.trie import SidTrie
from recbole_think.errors import InputError

NORMALIZE = ("vocab", "level", "valid")


@dataclass(frozen=True)
class BeamResult:
    """Ranked items of B users."""

    items: Tensor  # int64 [B, K], rows of the trie, -1 after the end
    scores: Tensor  # float32 [B, K], -inf there
    codes: Tensor  # int64 [B, K, L]


@torch.no_grad()
def beam_search(
    model,
    input_ids: Tensor,
    attention_mask: Tensor,
    trie: SidTrie,
    code_tokens: list[Tensor],
    num_beams: int,
    normalize: str = "vocab",
    item_mask: Tensor | None = None,
) -> BeamResult:
    """Find the ``num_beams`` most likely items after each prompt.

    Args:
        model: causal LM whose output embeddings know the itemic tokens.
        input_ids: int64 [B, T], left-padded; the prompt ends where the first code is next.
        attention_mask: int64 [B, T].
        trie: the catalogue.
        code_tokens: L int64 tensors, token id of every code of that level.
        num_beams: K.
        normalize: ``vocab`` log-softmax over the vocabulary (as Hugging Face does), ``level`` over the codes of the
            level (what the recommendation stage trains), ``valid`` over the legal children alone.
        item_mask: bool [B, n], True = may not be named.

    Raises:
        InputError: sizes that do not fit, or a mask that leaves a user nothing.
    """
    _require(trie, code_tokens, num_beams, normalize)
    _require_prompts(trie, input_ids, attention_mask, item_mask)
    walk = _Walk(model, input_ids, attention_mask)
    hidden = walk.prefill()  # [B, 1, d]
    batch = len(input_ids)
    free = trie.free_before(item_mask) if item_mask is not None else None
    nodes = torch.zeros(batch, 1, dtype=torch.int64)
    scores = torch.zeros(batch, 1)
    codes = torch.zeros(batch, 1, 0, dtype=torch.int64)
    for level in range(trie.levels):
        child, legal = trie.children(level, nodes)  # [B, K, C]
        if free is not None:
            legal = legal & trie.alive(level + 1, child, free)
        code = trie.codes[level][child]
        gained = _child_scores(model, hidden, code_tokens[level], code, legal, normalize)  # [B, K, C]
        total = (scores.unsqueeze(-1) + gained).flatten(1)  # [B, K * C]
        kept = min(num_beams, total.shape[1])
        scores, place = total.topk(kept, dim=1)
        parent = place // child.shape[2]
        nodes = child.flatten(1).gather(1, place)
        chosen = code.flatten(1).gather(1, place)
        codes = torch.cat([codes.gather(1, parent.unsqueeze(-1).expand(-1, -1, level)), chosen.unsqueeze(-1)], dim=2)
        if level + 1 < trie.levels:
            hidden = walk.step(code_tokens[level][chosen], parent)
    return _ranked(trie, nodes, scores, codes, num_beams)


class _Walk:
    """The model's side of the search: a cache of keys and values, and who may see which position of it."""

    def __init__(self, model, input_ids: Tensor, attention_mask: Tensor):
        self.decoder, self.device = model.get_decoder(), next(model.parameters()).device
        self.input_ids, self.mask = input_ids.to(self.device), attention_mask.to(self.device).bool()
        self.cache: Any = None
        self.seen = self.mask.unsqueeze(1)  # bool [B, K, positions]: what each live beam may look at
        self.next_position = self.mask.sum(1, keepdim=True)  # [B, 1]

    def prefill(self) -> Tensor:
        """Read the prompts; return the hidden state after each: [B, 1, d]."""
        positions = (self.mask.cumsum(1) - 1).clamp(min=0)
        out = self.decoder(
            input_ids=self.input_ids, attention_mask=self.mask.long(), position_ids=positions, use_cache=True
        )
        self.cache = out.past_key_values
        return out.last_hidden_state[:, -1:]

    def step(self, tokens: Tensor, parent: Tensor) -> Tensor:
        """Append one token per beam, [B, K] each; return their hidden states [B, K, d]."""
        tokens, parent = tokens.to(self.device), parent.to(self.device)
        batch, beams = tokens.shape
        inherited = self.seen.gather(1, parent.unsqueeze(-1).expand(-1, -1, self.seen.shape[2]))
        itself = torch.eye(beams, dtype=torch.bool, device=self.device).expand(batch, -1, -1)
        self.seen = torch.cat([inherited, itself], dim=2)  # [B, K, positions]
        out = self.decoder(
            input_ids=tokens,
            attention_mask=_additive(self.seen),
            position_ids=self.next_position.expand(-1, beams),
            past_key_values=self.cache,
            use_cache=True,
        )
        self.next_position = self.next_position + 1
        return out.last_hidden_state


def _additive(seen: Tensor) -> Tensor:
    """Mask [B, K, positions] as numbers to add, [B, 1, K, positions]: every attention kind reads this form alike."""
    mask = torch.zeros(seen.shape, device=seen.device)
    return mask.masked_fill(~seen, torch.finfo(mask.dtype).min).unsqueeze(1)


def _child_scores(model, hidden: Tensor, tokens: Tensor, code: Tensor, legal: Tensor, normalize: str) -> Tensor:
    """Log-probability of every child: float32 [B, K, C], -inf where not legal."""
    head = model.get_output_embeddings()
    if normalize == "vocab" or not hasattr(head, "code_logits"):
        everything = head(hidden).float()
        logits = everything[..., tokens.to(everything.device)]
        norm = everything.logsumexp(-1, keepdim=True) if normalize == "vocab" else None
    else:
        logits, norm = head.code_logits(hidden, tokens), None
    logits = logits.cpu()
    if not torch.isfinite(logits).all():
        raise FloatingPointError("the language model gave NaN or infinite logits while decoding")
    of_children = logits.gather(2, code).masked_fill(~legal, -torch.inf)
    if normalize == "valid":
        norm = of_children.logsumexp(-1, keepdim=True).nan_to_num(neginf=0.0)
    elif norm is None:
        norm = logits.logsumexp(-1, keepdim=True)
    return of_children - norm.cpu()


def _ranked(trie: SidTrie, nodes: Tensor, scores: Tensor, codes: Tensor, num_beams: int) -> BeamResult:
    """Order by score, ties by item; mark places after the end."""
    items = trie.item(nodes)
    by_item = items.argsort(dim=1)
    by_score = scores.gather(1, by_item).argsort(dim=1, descending=True, stable=True)
    order = by_item.gather(1, by_score)
    items, scores = items.gather(1, order), scores.gather(1, order)
    codes = codes.gather(1, order.unsqueeze(-1).expand_as(codes))
    items = items.masked_fill(torch.isneginf(scores), -1)
    short = num_beams - items.shape[1]
    if short > 0:
        pad = torch.nn.functional.pad
        items, scores = pad(items, (0, short), value=-1), pad(scores, (0, short), value=-torch.inf)
        codes = pad(codes, (0, 0, 0, short))
    return BeamResult(items, scores, codes)


def _require(trie, code_tokens, num_beams, normalize) -> None:
    if not 1 <= num_beams <= trie.n:
        raise InputError(f"num_beams must be 1 to the catalogue's {trie.n} items, got {num_beams}")
    if len(code_tokens) != trie.levels:
        raise InputError(f"code_tokens has {len(code_tokens)} levels, the trie {trie.levels}")
    for level, (tokens, codes) in enumerate(zip(code_tokens, trie.codes, strict=True), start=1):
        if int(codes.max()) >= len(tokens):
            raise InputError(f"level {level}: code {int(codes.max())} has no token, code_tokens names {len(tokens)}")
    if normalize not in NORMALIZE:
        raise InputError(f"normalize must be one of {NORMALIZE}, got {normalize!r}")


def _require_prompts(trie, input_ids, attention_mask, item_mask) -> None:
    if input_ids.ndim != 2 or not input_ids.shape[1]:
        raise InputError(f"beam search needs prompts [B, T >= 1], got shape {tuple(input_ids.shape)}")
    if attention_mask.shape != input_ids.shape:
        raise InputError(f"attention_mask is {tuple(attention_mask.shape)}, the prompts {tuple(input_ids.shape)}")
    if not attention_mask[:, -1].bool().all() or (attention_mask.diff(dim=1) < 0).any():
        raise InputError("prompts must be left-padded and hold at least one token each: pad on the left")
    if item_mask is not None and item_mask.shape != (len(input_ids), trie.n):
        raise InputError(f"item_mask is {tuple(item_mask.shape)}, expected ({len(input_ids)}, {trie.n})")
    if item_mask is not None and item_mask.all(1).any():
        user = int(item_mask.all(1).nonzero()[0])
        raise InputError(f"row {user}: every item is masked, nothing can be recommended")
