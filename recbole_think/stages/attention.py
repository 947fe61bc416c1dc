"""Attention for training on a CPU, where the fused kernel's backward pass is slow and the plain way works in float32.

Queries that share a key are folded into one product, so keys and values are never copied; scores stay in the precision
of the values, are masked in place, and go through a softmax that is float32 inside. Registered with transformers under
a name of its own, by its own extension point. Same numbers as the plain way, to rounding.
B rows, H query heads, K key heads, T tokens that read, S tokens read, D size of a head.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import eager_mask

from recbole_think.stages.dropout import dropout as dropped

NAME = "recbole_think_folded"
KNOWN = frozenset({"gemma", "gemma3_text", "llama", "mistral", "qwen2", "qwen3", "smollm3"})  # plain softmax attention


@contextmanager
def folded(model: Any) -> Iterator[None]:
    """Read with this attention within the block, where the model would read the plain way and is of a known kind."""
    before = model.config._attn_implementation
    if before != "eager" or model.config.model_type not in KNOWN:
        yield
        return
    AttentionInterface.register(NAME, attend)
    AttentionMaskInterface.register(NAME, eager_mask)  # masks as numbers to add
    model.set_attn_implementation(NAME)
    try:
        yield
    finally:
        model.set_attn_implementation(before)


def attend(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None,
    scaling: float, dropout: float = 0.0, **_: Any,
) -> tuple[Tensor, None]:  # fmt: skip
    """Weighted values of every query, [B, T, H, D].

    Args:
        module: the attention layer.
        query: [B, H, T, D].
        key: [B, K, S, D].
        value: [B, K, S, D].
        attention_mask: [B, 1, T, S], to be added.
        scaling: of the scores.
        dropout: share of the weights dropped.
    """
    batch, heads, tokens, size = query.shape
    dtype, shared = value.dtype, heads // key.shape[1]
    folds = (query * scaling).to(dtype).reshape(batch, key.shape[1], shared * tokens, size)  # [B, K, H/K * T, D]
    scores = torch.matmul(folds, key.to(dtype).transpose(2, 3))  # [B, K, H/K * T, S]
    if attention_mask is not None:
        # a lowest number that became -inf would make NaN of a query that sees nothing
        mask = attention_mask.to(dtype).clamp(min=torch.finfo(dtype).min)
        scores.add_(mask.repeat(1, 1, shared, 1))
    weights = dropped(scores.softmax(-1), dropout, module.training)
    found = torch.matmul(weights, value).view(batch, heads, tokens, size)
    return found.transpose(1, 2).contiguous(), None
