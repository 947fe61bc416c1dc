"""Batched constrained beam search: prompts are read once, beams branch off them, only legal codes are looked at.

The model's side is ``reading.py``, the probabilities are ``likelihood.py``, the catalogue is ``trie.py``; here is the
search itself. B users, T prompt tokens, K beams, C largest number of children, L levels, n items.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from recbole_think.decoding.allowed import Allowed, allowed_items
from recbole_think.decoding.item_mask import Mask
from recbole_think.decoding.likelihood import NORMALIZE, child_scores
from recbole_think.decoding.reading import reader_of
from recbole_think.decoding.trie import SidTrie
from recbole_think.errors import InputError


@dataclass(frozen=True)
class BeamResult:
    """Ranked items of B users."""

    items: Tensor  # int64 [B, K], rows of the trie, -1 after the end
    scores: Tensor  # float32 [B, K], -inf there
    codes: Tensor  # int64 [B, K, L]


@torch.no_grad()
def beam_search(  # noqa: PLR0913 - an interface others call
    model,
    input_ids: Tensor,
    attention_mask: Tensor,
    trie: SidTrie,
    code_tokens: list[Tensor],
    num_beams: int,
    normalize: str = "vocab",
    prefix: list[Tensor] | None = None,
    item_mask: Mask | None = None,
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
        prefix: per user int64 [m, depth < L], the first codes an answer may begin with; None = any.
        item_mask: bool [B, n], True = may not be named, or its cells.

    Raises:
        InputError: sizes that do not fit, or a mask or prefixes that leave a user nothing.
        FloatingPointError: the model gives logits that are not numbers.
    """
    require_search(trie, code_tokens, num_beams, normalize)
    require_prompts(trie, input_ids, attention_mask, item_mask)
    allowed = allowed_items(trie, len(input_ids), prefix, item_mask)
    reader = reader_of(model, input_ids.shape[1] + trie.levels)
    hidden, at = reader.prompts(input_ids, attention_mask)
    return search(Search(model, reader, trie, code_tokens, normalize), hidden, at, num_beams, allowed)


@dataclass(frozen=True)
class Search:
    """What stays the same while a search goes on."""

    model: Any
    reader: Any  # Reader, or what stands for one
    trie: SidTrie
    code_tokens: list[Tensor]
    normalize: str

    def expand(self, level: int, nodes: Tensor, hidden: Any, allowed: Allowed | None) -> tuple[Tensor, ...]:
        """Children of nodes [B, K], their codes, and their log-probability after ``hidden`` [B, K, d]: [B, K, C]."""
        child, legal = self.trie.children(level, nodes)
        if allowed is not None:
            legal = legal & allowed.alive(level + 1, child)
        code = self.trie.codes[level][child].long()
        return child, code, self.scores(level, hidden, code, legal)

    def scores(self, level: int, hidden: Any, code: Tensor, legal: Tensor) -> Tensor:
        """Log-probability of children [B, K, C] with these codes, -inf where not legal."""
        return child_scores(self.model, hidden, self.code_tokens[level], code, legal, self.normalize)


@dataclass(frozen=True)
class Group:
    """Beams that go side by side with other groups off the same prompts, under a mask of their own."""

    num_beams: int  # K
    allowed: Allowed | None = None  # what may be named; None = everything


def search(fixed: Search, hidden: Any, at: Any, num_beams: int, allowed: Allowed | None = None) -> BeamResult:
    """Walk down the trie from where the reader stands; see ``search_groups``."""
    [found] = search_groups(fixed, hidden, at, [Group(num_beams, allowed)])
    return found


def search_groups(fixed: Search, hidden: Any, at: Any, groups: Sequence[Group]) -> list[BeamResult]:
    """Walk down the trie from where the reader stands, several groups of beams in the same steps.

    What a group finds is what it would find alone: groups share the reading, not the places among the best.

    Args:
        fixed: model, catalogue and normalisation.
        hidden: [B, 1, d], what the first code is predicted from.
        at: the reader's place.
        groups: G, at least one.
    """
    fronts = [Front.first(len(hidden)) for _ in groups]
    of_group = [hidden] * len(groups)
    for level in range(fixed.trie.levels):
        parents, before = [], 0  # every group goes off the prompt itself; later each has branches of its own
        for number, group in enumerate(groups):
            width = fronts[number].nodes.shape[1]
            fronts[number], parent = _onward(fixed, level, fronts[number], of_group[number], group)
            parents.append(parent + before)
            before += width if level else 0
        if level + 1 < fixed.trie.levels:
            chosen = _joined([front.codes[:, :, -1] for front in fronts])
            hidden, at = fixed.reader.step(at, fixed.code_tokens[level][chosen], _joined(parents))
            of_group = _parted(hidden, [front.nodes.shape[1] for front in fronts])
    return [_ranked(fixed.trie, front, group.num_beams) for front, group in zip(fronts, groups, strict=True)]


@dataclass(frozen=True)
class Front:
    """Where the beams of a group are."""

    nodes: Tensor  # int64 [B, K], of the level reached
    scores: Tensor  # float32 [B, K]
    codes: Tensor  # int64 [B, K, levels so far]

    @classmethod
    def first(cls, rows: int) -> "Front":
        """The root, for every prompt."""
        return cls(torch.zeros(rows, 1, dtype=torch.int64), torch.zeros(rows, 1), torch.zeros(rows, 1, 0).long())


def _onward(fixed: Search, level: int, front: Front, hidden: Any, group: Group) -> tuple[Front, Tensor]:
    """The best children of a group's beams, and which beam each is a child of, int64 [B, K]."""
    child, code, gained = fixed.expand(level, front.nodes, hidden, group.allowed)
    total = (front.scores.unsqueeze(-1) + gained).flatten(1)  # [B, K * C]
    alive = int((total > -torch.inf).sum(1).max())  # where few may be named, nobody reads on for those that may not
    scores, place = total.topk(max(1, min(group.num_beams, alive)), dim=1)
    parent = place // child.shape[2]
    nodes = child.flatten(1).gather(1, place)
    chosen = code.flatten(1).gather(1, place)
    before = front.codes.gather(1, parent.unsqueeze(-1).expand(-1, -1, level))
    return Front(nodes, scores, torch.cat([before, chosen.unsqueeze(-1)], dim=2)), parent


def _joined(of_groups: list[Tensor]) -> Tensor:
    return of_groups[0] if len(of_groups) == 1 else torch.cat(of_groups, dim=1)


def _parted(hidden: Any, widths: list[int]) -> list[Any]:
    return [hidden] if len(widths) == 1 else list(hidden.split(widths, dim=1))


def _ranked(trie: SidTrie, front: Front, num_beams: int) -> BeamResult:
    """Order by score, ties by item; mark places after the end."""
    nodes, scores, codes = front.nodes, front.scores, front.codes
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


def require_search(trie: SidTrie, code_tokens: list[Tensor], num_beams: int, normalize: str) -> None:
    """Refuse sizes that do not fit together."""
    if not 1 <= num_beams <= trie.n:
        raise InputError(f"num_beams must be 1 to the catalogue's {trie.n} items, got {num_beams}")
    if len(code_tokens) != trie.levels:
        raise InputError(f"code_tokens has {len(code_tokens)} levels, the trie {trie.levels}")
    for level, (tokens, codes) in enumerate(zip(code_tokens, trie.codes, strict=True), start=1):
        if int(codes.max()) >= len(tokens):
            raise InputError(f"level {level}: code {int(codes.max())} has no token, code_tokens names {len(tokens)}")
    if normalize not in NORMALIZE:
        raise InputError(f"normalize must be one of {NORMALIZE}, got {normalize!r}")


def require_prompts(trie: SidTrie, input_ids: Tensor, attention_mask: Tensor, item_mask: Mask | None) -> None:
    """Refuse prompts that are not left-padded, and a mask of other sizes."""
    if input_ids.ndim != 2 or not input_ids.shape[1]:
        raise InputError(f"beam search needs prompts [B, T >= 1], got shape {tuple(input_ids.shape)}")
    if attention_mask.shape != input_ids.shape:
        raise InputError(f"attention_mask is {tuple(attention_mask.shape)}, the prompts {tuple(input_ids.shape)}")
    if not attention_mask[:, -1].bool().all() or (attention_mask.diff(dim=1) < 0).any():
        raise InputError("prompts must be left-padded and hold at least one token each: pad on the left")
    if item_mask is not None and item_mask.shape != (len(input_ids), trie.n):
        raise InputError(f"item_mask is {tuple(item_mask.shape)}, expected ({len(input_ids)}, {trie.n})")
