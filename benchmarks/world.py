"""What benchmarks share: a backbone that knows random codes, prompts of unequal lengths, and the usual peer.

B users, T prompt tokens, K beams, L levels.
"""

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from recbole_think.folder import cache_dir
from recbole_think.itemic.backbone import SMOLLM2, load_backbone
from recbole_think.itemic.codes import Codes
from recbole_think.itemic.options import BackboneOptions
from recbole_think.itemic.vocabulary import Vocabulary, extend_tokenizer, teach_vocabulary
from recbole_think.prompts.batching import prompt_batch

FIRST_WORD = 100  # token ids below are special
QUIET = 200.0  # how far below 0 the logit of the closing mark is put


def random_codes(items: int, levels: int, size: int, seed: int = 0) -> Codes:
    """Give every item different codes: int64 [items, L]."""
    flat = np.random.default_rng(seed).choice(size**levels, items, replace=False)
    table = np.stack([flat // size ** (levels - 1 - level) % size for level in range(levels)], axis=1)
    return Codes(table.astype(np.int64), (size,) * levels)


def taught_backbone(layers: int, codes: Codes, name: str = SMOLLM2) -> tuple[Any, Vocabulary]:
    """A backbone cut to ``layers`` (0 = whole) whose rows for the codes are random."""
    model: Any
    model, tokenizer = load_backbone(BackboneOptions(name, layers), cache_dir(None), ["some words"])
    vocabulary = extend_tokenizer(tokenizer, codes)
    teach_vocabulary(model, vocabulary, codes, ["some words"] * len(codes.table))
    with torch.no_grad():
        model.get_input_embeddings().rows.normal_(std=0.1, generator=torch.Generator().manual_seed(1))
    return model.eval(), vocabulary


def plain(model: Any) -> Any:
    """The same model as Hugging Face would have it: one embedding matrix for words and codes."""
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    rows = torch.cat([embedding.text.weight[: embedding.first], embedding.rows]).detach()
    other = copy.deepcopy(model, {id(embedding.text.weight): nn.Parameter(rows), id(embedding.rows): None})
    words = nn.Embedding.from_pretrained(rows, freeze=True)
    linear = nn.Linear(rows.shape[1], rows.shape[0], bias=False)
    linear.weight = words.weight
    other.set_input_embeddings(words)
    other.set_output_embeddings(linear)
    other.config.vocab_size = len(rows)
    other.set_attn_implementation("sdpa")
    assert type(head).__name__ == "CodeHead"
    return other.eval()


def word_prompts(users: int, tokens: int, below: int, seed: int = 0) -> list[np.ndarray]:
    """Random words, a fifth shorter to a fifth longer than ``tokens``."""
    dice = np.random.default_rng(seed)
    lengths = dice.integers(round(0.8 * tokens), round(1.2 * tokens) + 1, users)
    return [dice.integers(FIRST_WORD, below, length) for length in lengths]


@torch.no_grad()
def never_closed(model: Any, vocabulary: Vocabulary, prompts: list[np.ndarray]) -> None:
    """Make the closing mark so unlikely that every thought is closed at its limit: its row is turned away."""
    ids, mask = prompt_batch(prompts, vocabulary.tokenizer.pad_token_id)
    hidden = model.get_decoder()(input_ids=ids, attention_mask=mask).last_hidden_state[mask.bool()].mean(0)
    model.get_input_embeddings().rows[vocabulary.marks[1] - vocabulary.first] = -QUIET * hidden / hidden.square().sum()


def legal_tokens(item_tokens: Any) -> dict[tuple[int, ...], list[int]]:
    """A trie as people write it: what may follow each prefix of item tokens, int64 [n, L]."""
    allowed: dict[tuple[int, ...], set[int]] = {}
    for tokens in item_tokens.tolist():
        for depth, token in enumerate(tokens):
            allowed.setdefault(tuple(tokens[:depth]), set()).add(token)
    return {prefix: sorted(tokens) for prefix, tokens in allowed.items()}


def generated_lists(
    model: Any, prompts: Sequence[np.ndarray], vocabulary: Vocabulary, legal: dict, beams: int
) -> list[list[int]]:
    """Rank with Hugging Face's generate and ``prefix_allowed_tokens_fn``, the usual way to do it right."""
    item_of = {tuple(tokens): item for item, tokens in enumerate(vocabulary.item_tokens.tolist())}
    ids, mask = prompt_batch(prompts, vocabulary.tokenizer.pad_token_id)
    said = generated_tokens(model, ids, mask, legal, beams, vocabulary.item_tokens.shape[1]).tolist()
    return [[item_of[tuple(row)] for row in user] for user in said]


def generated_tokens(
    model: Any, ids: torch.Tensor, mask: torch.Tensor, legal: dict, beams: int, levels: int
) -> torch.Tensor:
    """Tokens of the best items after left-padded prompts [B, T], by one call of generate: int64 [B, K, L]."""
    length = ids.shape[1]
    with torch.no_grad():
        out = model.generate(
            ids, attention_mask=mask, num_beams=beams, num_return_sequences=beams, max_new_tokens=levels,
            min_new_tokens=levels, do_sample=False, length_penalty=0.0,
            prefix_allowed_tokens_fn=lambda _, sequence: legal[tuple(sequence[length:].tolist())],
        )  # fmt: skip
    return out[:, length:].view(len(ids), beams, levels)
