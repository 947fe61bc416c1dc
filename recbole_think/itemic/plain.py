"""A taught language model as a plain one, and back: rows of codes after those of words, in one table.

While it is taught, rows of codes live beside those of words (``vocabulary.py``), and the backbone's table may have rows
no token uses; a plain model has a row for every token and nothing else, and any library reads it.
"""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from recbole_think.errors import InputError
from recbole_think.itemic.backbone import from_source, settle_attention
from recbole_think.itemic.codes import Codes
from recbole_think.itemic.vocabulary import MARKS, CodeHead, CodeRows, Vocabulary, token_names


def joined(model: Any, vocabulary: Vocabulary) -> Any:
    """Return a copy of a taught model with one table of rows, and one head."""
    plain = copy.deepcopy(model)
    embedding, head = plain.get_input_embeddings(), plain.get_output_embeddings()
    tied = head.text.weight is embedding.text.weight and head.rows is embedding.rows
    words, out = embedding.text, head.text
    words.weight = _table(words.weight, embedding.rows, vocabulary.first)
    words.num_embeddings = len(words.weight)
    out.weight = words.weight if tied else _table(out.weight, head.rows, vocabulary.first)
    out.out_features = len(out.weight)
    if getattr(out, "bias", None) is not None:
        none = torch.zeros(len(head.rows), dtype=out.bias.dtype)
        out.bias = nn.Parameter(torch.cat([out.bias.detach()[: vocabulary.first], none]))
    plain.set_input_embeddings(words)
    plain.set_output_embeddings(out)
    plain.config.vocab_size = len(words.weight)
    plain.config.tie_word_embeddings = tied
    return plain


def parted(model: Any, vocabulary: Vocabulary) -> None:
    """Give the rows of codes of a plain model a place of their own again, in place; the reverse of ``joined``."""
    words, out, first = model.get_input_embeddings(), model.get_output_embeddings(), vocabulary.first
    tied = out.weight is words.weight
    rows = nn.Parameter(words.weight.detach()[first:].clone())
    head_rows = rows if tied else nn.Parameter(out.weight.detach()[first:].clone())
    embedding = CodeRows(words, rows, first)
    embedding.rows = rows  # the very parameter, which the head may share
    model.set_input_embeddings(embedding)
    model.set_output_embeddings(CodeHead(out, head_rows, first))


def known_vocabulary(tokenizer: PreTrainedTokenizerBase, codes: Codes) -> Vocabulary:
    """The vocabulary of a tokenizer that has the codes already.

    Raises:
        InputError: it lacks one, or they do not follow one another.
    """
    known = tokenizer.get_vocab()
    names = token_names(codes)
    missing = [name for name in (*(name for level in names for name in level), *MARKS) if name not in known]
    if missing:
        raise InputError(f"the tokenizer has no token {missing[0]!r}: it is not that of these codes")
    code_tokens = [torch.tensor([known[name] for name in level]) for level in names]
    flat = torch.cat(code_tokens)
    if not torch.equal(flat, torch.arange(int(flat[0]), int(flat[0]) + len(flat))):
        raise InputError("the tokenizer's itemic tokens do not follow one another; export the run again")
    starts = np.array([int(level[0]) for level in code_tokens])
    opens, closes = (int(known[mark]) for mark in MARKS)
    return Vocabulary(tokenizer, code_tokens, codes.table + starts[None], int(flat[0]), (opens, closes))


def write_plain(model: Any, vocabulary: Vocabulary, folder: Path) -> None:
    """Write a taught model and its tokenizer as any library reads them."""
    joined(model, vocabulary).save_pretrained(folder)
    vocabulary.tokenizer.save_pretrained(folder)


def read_plain(folder: Path) -> tuple[Any, PreTrainedTokenizerBase]:
    """Read a plain model, in float32, and its tokenizer.

    Raises:
        InputError: they are not there, or damaged.
    """
    model, tokenizer = from_source(str(folder), "exported folder", "export the run again")
    settle_attention(model)
    return model.eval(), tokenizer


def read_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """Read the tokenizer of a plain model alone.

    Raises:
        InputError: it is not there, or damaged.
    """
    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, TypeError, KeyError) as why:
        raise InputError(f"{folder} holds no readable tokenizer: {why}; export the run again") from why


def _table(words: Tensor, codes: Tensor, first: int) -> nn.Parameter:
    return nn.Parameter(torch.cat([words.detach()[:first], codes.detach().to(words.dtype)]))
