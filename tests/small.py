"""Small pieces for tests of single rooms: random code tables, random language models, item texts."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

WORDS = 50  # text tokens of a plain model; codes come after them


def distinct_codes(n: int, sizes: Sequence[int], seed: int = 0) -> np.ndarray:
    """Return n different code rows in random order: int64 [n, L]."""
    dice = np.random.default_rng(seed)
    chosen = dice.choice(int(np.prod(sizes)), n, replace=False)
    return np.stack(np.unravel_index(chosen, sizes), axis=1).astype(np.int64)


def tokens_of_levels(sizes: Sequence[int], first: int = WORDS) -> list[torch.Tensor]:
    """Token ids of every code, level after level, from ``first`` on."""
    ends = np.cumsum([first, *sizes])
    return [torch.arange(begin, end) for begin, end in zip(ends[:-1].tolist(), ends[1:].tolist(), strict=True)]


def plain_qwen(rows: int, tied: bool = False, attention: str = "sdpa", seed: int = 0, spread: float = 0.3) -> Any:
    """Build a two-layer random Qwen3 with ``rows`` tokens and weights wide enough to have opinions."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    config = Qwen3Config(
        vocab_size=rows, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, head_dim=8, max_position_embeddings=256, tie_word_embeddings=tied,
        initializer_range=spread, bos_token_id=None, eos_token_id=None, pad_token_id=0,
        attn_implementation=attention,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Qwen3ForCausalLM(config).eval()


FAMILIES = ("llama", "qwen2", "qwen3", "gemma", "gemma3_text")
OTHERS = ("mistral", "olmo2")  # read by their own code alone


def backbone_of(family: str, rows: int, seed: int = 0) -> Any:
    """Build a three-layer random model of a family, with ``rows`` tokens and weights wide enough to have opinions."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(
        family, vocab_size=rows, hidden_size=16, intermediate_size=32, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, max_position_embeddings=256, initializer_range=0.3, bos_token_id=None,
        eos_token_id=None, pad_token_id=0, query_pre_attn_scalar=8, sliding_window=64,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()


def item_texts(n: int) -> list[str]:
    """One short text per item, all different."""
    return [f"thing number {number} of the {('red', 'green', 'blue')[number % 3]} box" for number in range(n)]


def taught(table: np.ndarray, sizes: Sequence[int], seed: int = 0) -> tuple[Any, Any]:
    """Return the tiny backbone that has learnt the words for ``table``, and its vocabulary."""
    from recbole_think.itemic.backbone import tiny
    from recbole_think.itemic.codes import Codes
    from recbole_think.itemic.vocabulary import extend_tokenizer, teach_vocabulary
    from recbole_think.prompts.templates import RECOMMENDATION_SYSTEM, RECOMMENDATION_USER

    texts = item_texts(len(table))
    model, tokenizer = tiny([*texts, *[RECOMMENDATION_SYSTEM, RECOMMENDATION_USER] * 9], seed)  # so the frame is short
    codes = Codes(table, tuple(sizes))
    vocabulary = extend_tokenizer(tokenizer, codes)
    teach_vocabulary(model, vocabulary, codes, texts)
    return model.eval(), vocabulary
