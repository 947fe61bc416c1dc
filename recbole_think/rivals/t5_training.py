"""How a T5 reads while it trains: transformers' own modules, walked with less work between the products.

States are cast once for the products that read them, norms are single kernels and dropout a cheap one, the bias of
places and the mask are added up once for all layers, and where no row is padded there is no mask. The same numbers as
the modules called as they are, to rounding; dropout falls where theirs does.
B rows, T tokens that read, S tokens read, H heads, D size of a head, d width.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from recbole_think.rivals.t5 import NEVER, ready
from recbole_think.stages.dropout import dropout


def hidden_states(model: Any, prompts: Tensor, pad: int, answers: Tensor) -> Tensor:
    """What each token of an answer predicts the next one from, [B, L, d], as the head wants it.

    Args:
        model: T5ForConditionalGeneration with a feed-forward that is not gated.
        prompts: int64 [B, T], padded on either side.
        pad: token that fills them up.
        answers: int64 [B, L], the token all begin with and what was said so far.
    """
    real = prompts != pad
    unread = (
        None if real.all() else torch.zeros(real.shape, device=real.device).masked_fill(~real, NEVER)[:, None, None]
    )
    encoded = _stack(model.encoder, prompts, unread)
    length = answers.shape[1]
    later = torch.full((length, length), NEVER, device=answers.device).triu(1)
    return ready(model, _stack(model.decoder, answers, later, encoded, unread))


def _stack(
    stack: Any, tokens: Tensor, mask: Tensor | None, encoded: Tensor | None = None, unread: Tensor | None = None
) -> Tensor:
    """Encoder, or decoder over what was ``encoded``, [B, S, d]; masks are added to scores: [B, 1, 1, S] or [T, S]."""
    state = _dropped(stack, stack.embed_tokens(tokens))
    length = tokens.shape[1]
    bias = stack.block[0].layer[0].SelfAttention.compute_bias(length, length)  # [1, H, T, T]
    bias = _low(bias if mask is None else bias + mask)
    unread = None if unread is None else _low(unread)
    read = None if encoded is None else _low(encoded)
    for block in stack.block:
        itself, *across, feed = block.layer
        state = state + _dropped(stack, _attend(itself.SelfAttention, _normed(itself.layer_norm, state), bias))
        for layer in across:
            found = _attend(layer.EncDecAttention, _normed(layer.layer_norm, state), unread, read)
            state = state + _dropped(stack, found)
        wide = feed.DenseReluDense.wi(_normed(feed.layer_norm, state)).relu_()
        state = state + _dropped(stack, feed.DenseReluDense.wo(_dropped(stack, wide)))
    return _dropped(stack, _normed(stack.final_layer_norm, state))


def _attend(attention: Any, state: Tensor, bias: Tensor | None, read: Tensor | None = None) -> Tensor:
    """T5Attention over itself or over what is ``read``, [B, T, d]; T5 does not scale its scores.

    Args:
        attention: the module.
        state: [B, T, d], what asks.
        bias: added to the scores, [B or 1, H or 1, T or 1, S].
        read: [B, S, d].
    """
    asked = state if read is None else read
    query, key, value = (
        part(values).unflatten(2, (-1, attention.key_value_proj_dim)).transpose(1, 2)  # [B, H, T or S, D]
        for part, values in ((attention.q, state), (attention.k, asked), (attention.v, asked))
    )
    scores = query @ key.transpose(2, 3)  # [B, H, T, S]
    if bias is not None:
        scores = scores.add_(bias)
    weights = dropout(scores.softmax(-1), attention.dropout, attention.training)
    return attention.o((weights.to(value.dtype) @ value).transpose(1, 2).flatten(2))


def _normed(norm: Any, state: Tensor) -> Tensor:
    return _low(functional.rms_norm(state, norm.weight.shape, norm.weight, norm.variance_epsilon))


def _dropped(stack: Any, values: Tensor) -> Tensor:
    return dropout(values, stack.config.dropout_rate, stack.training)


def _low(values: Tensor) -> Tensor:
    """Values as the products under autocast want them, cast once instead of at every product."""
    device = values.device.type
    return values.to(torch.get_autocast_dtype(device)) if torch.is_autocast_enabled(device) else values
