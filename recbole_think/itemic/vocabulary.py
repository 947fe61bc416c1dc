"""Itemic tokens: codes become tokens of a tokenizer, and rows of a language model's embeddings.

A code of level 1 is spelt ``<a_17>``, of level 2 ``<b_3>`` and so on. The paper puts two boundary tokens around every
item; the level letter already says where an item starts, so we leave them out: a history is 40 % shorter.
New rows live in their own parameter beside the frozen text rows (``CodeRows``): they alone need gradients, optimizer
state and room in a checkpoint, and a softmax over codes never touches 49,152 words.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AddedToken, PreTrainedTokenizerBase

from recbole_think.corpus.items import neutralise
from recbole_think.errors import InputError
from recbole_think.itemic.codes import Codes, spelling

MARKS = ("<think>", "</think>")  # around a thought
WORD_ROWS = 256  # hidden states projected onto all words at once: 50 MB of logits


@dataclass(frozen=True)
class Vocabulary:
    """A tokenizer that knows the codes."""

    tokenizer: PreTrainedTokenizerBase
    code_tokens: list[Tensor]  # L int64 tensors: token id of every code of that level
    item_tokens: np.ndarray  # int64 [n, L]: token ids of item r + 1
    first: int  # id of the first itemic token; text tokens are below
    marks: tuple[int, int]  # ids of ``<think>`` and ``</think>``

    def encode(self, text: str, lead: str = "") -> list[int]:
        """Token ids of text from outside, after a ``lead`` of ours: never a special token, whatever it spells."""
        return self.tokenizer.encode(lead + neutralise(text), add_special_tokens=False, split_special_tokens=True)

    def spell(self, item: int) -> str:
        """The itemic tokens of a RecBole item id as text."""
        return "".join(self.tokenizer.convert_ids_to_tokens(self.item_tokens[item - 1].tolist()))


def token_names(codes: Codes) -> list[list[str]]:
    """Spelling of every code, by level."""
    return [[spelling(level, code) for code in range(size)] for level, size in enumerate(codes.sizes)]


def extend_tokenizer(tokenizer: PreTrainedTokenizerBase, codes: Codes) -> Vocabulary:
    """Add the itemic tokens of ``codes`` at the end of the tokenizer, and after them the marks it does not know.

    Raises:
        InputError: the tokenizer already has a token of that spelling.
    """
    first = len(tokenizer)
    names = token_names(codes)
    flat = [name for level in names for name in level]
    known = sorted(set(flat) & set(tokenizer.get_vocab()))
    if known:
        raise InputError(
            f"the backbone's tokenizer already has the token {known[0]!r}; use a backbone without itemic tokens"
        )
    new = [*flat, *(mark for mark in MARKS if mark not in tokenizer.get_vocab())]
    tokenizer.add_tokens([AddedToken(name, special=True, normalized=False) for name in new], special_tokens=True)
    starts = np.concatenate([[0], np.cumsum(codes.sizes)[:-1]]) + first
    code_tokens = [torch.arange(start, start + size) for start, size in zip(starts.tolist(), codes.sizes, strict=True)]
    opens, closes = (int(tokenizer.get_vocab()[mark]) for mark in MARKS)
    return Vocabulary(tokenizer, code_tokens, codes.table + starts[None], first, (opens, closes))


class CodeRows(nn.Module):
    """Input embedding: text ids through the backbone's own module, itemic ids through rows of their own."""

    def __init__(self, text: nn.Module, rows: Tensor, first: int):
        super().__init__()
        self.text = text
        self.rows = nn.Parameter(rows)  # [n_codes, d]
        self.first = first

    def forward(self, ids: Tensor) -> Tensor:
        """Embed token ids of any shape: [...] -> [..., d]."""
        words = self.text(ids.clamp(max=self.first - 1))
        scale = getattr(self.text, "embed_scale", 1.0)  # Gemma multiplies inside its embedding
        items = functional.embedding((ids - self.first).clamp(min=0), self.rows) * scale
        return torch.where((ids >= self.first).unsqueeze(-1), items.to(words.dtype), words)


class CodeHead(nn.Module):
    """Output head: logits of words, then of codes; or of chosen codes alone, in float32."""

    def __init__(self, text: nn.Module, rows: nn.Parameter, first: int):
        super().__init__()
        self.text = text
        self.rows = rows  # [n_codes, d], the input rows themselves where the backbone ties its embeddings
        self.first = first
        self._cast: tuple[tuple, Tensor] | None = None  # frozen words in another precision, and what they were made of

    def forward(self, hidden: Tensor) -> Tensor:
        """Logits of the whole vocabulary: [..., d] -> [..., first + n_codes]."""
        words = self.text(hidden)[..., : self.first]
        return torch.cat([words, functional.linear(hidden, self.rows.to(hidden.dtype))], dim=-1)

    def log_normalizer(self, hidden: Tensor) -> Tensor:
        """Log of the sum over all words and codes of exp(logit): [N, d] -> float32 [N].

        Words are multiplied in the precision of their rows: an error of theirs is a small part of a sum of thousands.
        """
        codes = self._all_codes(hidden).logsumexp(-1)
        on = torch.is_autocast_enabled(hidden.device.type)
        rows = hidden if on else hidden.to(next(self.text.parameters()).dtype)
        words = [self.text(part)[..., : self.first].float().logsumexp(-1) for part in rows.split(WORD_ROWS)]
        return torch.logaddexp(torch.cat(words), codes)

    def words(self, dtype: torch.dtype) -> Tensor | None:
        """Rows of words in some precision, [first, d]; None if the backbone's head is not such rows alone.

        Frozen rows are cast once and kept: autocast would cast them at every use.
        """
        if type(self.text) is not nn.Linear or self.text.bias is not None:
            return None
        weight = self.text.weight.detach()[: self.first]
        if weight.dtype == dtype or self.text.weight.requires_grad:
            return weight.to(dtype)
        made_of = (dtype, weight.device, weight.data_ptr(), weight._version)  # a version is counted up by every change
        if self._cast is None or self._cast[0] != made_of:
            self._cast = (made_of, weight.to(dtype))
        return self._cast[1]

    def token_rows(self, tokens: Tensor) -> Tensor | None:
        """Rows of some words and codes, float32 [len(tokens), d]; None if the backbone's head is not rows alone.

        Rows of words are taken as frozen; those of codes learn.
        """
        words = self.words(torch.float32)
        if words is None:
            return None
        tokens = tokens.to(self.rows.device)
        told = words[tokens.clamp(max=self.first - 1)]
        named = self.rows[(tokens - self.first).clamp(min=0)].float()
        return torch.where((tokens < self.first).unsqueeze(1), told, named)

    def token_logits(self, hidden: Tensor, tokens: Tensor) -> Tensor:
        """Logits of some words and codes: [..., d] -> float32 [..., len(tokens)], whatever the precision around it."""
        rows = self.token_rows(tokens) if 2 * len(tokens) < self.first else None
        if rows is None:  # most words: they are multiplied in the precision of their rows
            on = torch.is_autocast_enabled(hidden.device.type)
            read = hidden if on else hidden.to(next(self.text.parameters()).dtype)
            words = self.text(read)[..., : self.first].float()
            return torch.cat([words, self._all_codes(hidden)], dim=-1)[..., tokens.to(hidden.device)]
        with torch.autocast(hidden.device.type, enabled=False):
            return functional.linear(hidden.float(), rows)

    def _all_codes(self, hidden: Tensor) -> Tensor:
        with torch.autocast(hidden.device.type, enabled=False):
            return functional.linear(hidden.float(), self.rows.float())

    def code_logits(self, hidden: Tensor, tokens: Tensor) -> Tensor:
        """Logits of some itemic tokens: [..., d] -> float32 [..., len(tokens)], whatever the precision around it."""
        with torch.autocast(hidden.device.type, enabled=False):
            rows = self.rows[tokens.to(self.rows.device) - self.first]
            return functional.linear(hidden.float(), rows.float())


def teach_vocabulary(model: Any, vocabulary: Vocabulary, codes: Codes, texts: Sequence[str]) -> None:
    """Give ``model`` input and output rows for the itemic tokens, in place, each started from the text it stands for.

    Args:
        model: backbone without itemic rows.
        vocabulary: from ``extend_tokenizer``.
        codes: the code table.
        texts: one text per item.
    """
    base: Any = model.get_input_embeddings()
    rows = starting_rows(base.weight.detach()[: vocabulary.first], vocabulary, codes, texts)
    tied = bool(model.config.tie_word_embeddings)
    embedding = CodeRows(base, rows, vocabulary.first)
    head_rows = embedding.rows if tied else nn.Parameter(rows.clone())
    head = CodeHead(model.get_output_embeddings(), head_rows, vocabulary.first)
    model.set_input_embeddings(embedding)
    model.set_output_embeddings(head)


def starting_rows(words: Tensor, vocabulary: Vocabulary, codes: Codes, texts: Sequence[str]) -> Tensor:
    """First value of every code row: the mean word vector of the items that carry the code.

    Means of residual levels differ little from one another, so each level is centred and stretched to the spread of
    word vectors: rows start as distinct as words are.

    Args:
        words: float32 [n_text, d].
        vocabulary: the extended tokenizer.
        codes: the code table.
        texts: one text per item.

    Returns:
        float32 [sum of sizes and of new marks, d]; a mark starts as the mean of the words it is spelt with.
    """
    of_items = torch.stack([words[vocabulary.encode(text) or [0]].mean(0) for text in texts])  # [n, d]
    centre, spread = words.mean(0), words.std(0).norm()
    rows = []
    for level, size in enumerate(codes.sizes):
        code = torch.from_numpy(codes.table[:, level])
        count = torch.bincount(code, minlength=size).clamp(min=1)[:, None]
        mean = torch.zeros(size, words.shape[1]).index_add_(0, code, of_items) / count
        used = torch.bincount(code, minlength=size) > 0
        away = torch.where(used[:, None], mean - mean[used].mean(0), torch.zeros_like(mean))
        away = away / away.norm(dim=1, keepdim=True).clamp(min=1e-6)
        rows.append(centre + away * spread)
    for mark, token in zip(MARKS, vocabulary.marks, strict=True):
        if token >= vocabulary.first:
            rows.append(words[vocabulary.encode(mark) or [0]].mean(0, keepdim=True))
    return torch.cat(rows)
