"""Cross-entropy out of the whole vocabulary, a few hundred positions at a time, gradients made on the way.

A softmax over 49,152 words in float32 is what a training step of text spends most of its memory on, and a third of its
time. Here the logits of one chunk of positions exist at a time, in the precision of the products around; the softmax
itself is float32, a few rows at a time, so that it stays in the processor's cache; and a chunk's logits become its
gradient in place. Frozen words get no gradient, and none is computed. Buffers are reused: memory fresh from the system
costs a CPU a third of the product that fills it.
N positions, n of a chunk, d hidden size, W words, C codes.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

CHUNK = 512  # positions whose logits exist at once on a CPU: enough for the products to run at full speed
GPU_CHUNK = 4096  # on a GPU: 2 GB of a language model's
BLOCK = 16  # of them whose softmax is made at once on a CPU: what stays in its cache
LINES = 256  # of the gradient of words added at once on a CPU, likewise


def vocabulary_loss(head: Any, hidden: Tensor, targets: Tensor, words_alone: bool = False) -> Tensor:
    """Summed cross-entropy of tokens out of all words and codes: the same number and gradients as the plain one.

    Args:
        head: a ``CodeHead``.
        hidden: [N, d].
        targets: int64 [N], the tokens to be predicted.
        words_alone: leave the codes out of the softmax.
    """
    device = hidden.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype
    words = head.words(dtype)
    if words is None:  # a head of another kind makes its own logits
        logits = head.text(hidden)[..., : head.first] if words_alone else head(hidden)
        return functional.cross_entropy(logits.float(), targets, reduction="sum")
    rows = head.rows[:0] if words_alone else head.rows
    summed: Any = _Summed.apply
    with torch.autocast(device, enabled=False):
        return summed(hidden.to(dtype), head.text.weight, rows, words, targets, torch.is_grad_enabled())


def catalogue_loss(hidden: Tensor, table: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy under a softmax over all rows of an embedding table, in float32 in any precision around it.

    The number and the gradients of ``cross_entropy(hidden @ table.T, targets)``.

    Args:
        hidden: [N, d].
        table: [V, d], which learns.
        targets: int64 [N].
    """
    summed: Any = _Summed.apply
    none = table.new_empty(0, table.shape[1])
    with torch.autocast(hidden.device.type, enabled=False):
        total = summed(hidden.float(), table, none, table.detach(), targets, torch.is_grad_enabled())
    return total / len(targets)


class _Summed(torch.autograd.Function):
    """Loss and gradients in one pass over the chunks; backward only multiplies."""

    @staticmethod
    def forward(ctx, hidden, weight, rows, words, targets, learning):
        """Sum the loss, and keep the gradients of what learns; ``words`` are the rows of ``weight`` in use, cast."""
        of_hidden, of_weight, of_rows = (
            torch.zeros_like(value) if learning and value.requires_grad else None for value in (hidden, weight, rows)
        )
        codes = rows.to(words.dtype)  # [C, d]
        size = CHUNK if hidden.device.type == "cpu" else GPU_CHUNK
        buffer = hidden.new_empty(min(size, len(hidden)), len(words) + len(codes))
        total = torch.zeros((), device=hidden.device)
        for begin in range(0, len(hidden), size):
            chunk, wanted = hidden[begin : begin + size], targets[begin : begin + size]
            logits = buffer[: len(chunk)]  # [n, W + C]
            of_words, of_codes = logits[:, : len(words)], logits[:, len(words) :]
            torch.mm(chunk, words.T, out=of_words)
            torch.mm(chunk, codes.T, out=of_codes)
            total += _into_gradients(logits, wanted, learning)
            if of_hidden is not None:
                torch.addmm(of_words @ words, of_codes, codes, out=of_hidden[begin : begin + size])
            if of_weight is not None:
                _add(of_weight[: len(words)], of_words.T @ chunk)
            if of_rows is not None:
                of_rows += of_codes.T @ chunk
        ctx.save_for_backward(of_hidden, of_weight, of_rows)
        return total

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient):
        """Scale what forward made."""
        return (*(value if value is None else value * gradient for value in ctx.saved_tensors), None, None, None)


def _into_gradients(logits: Tensor, targets: Tensor, learning: bool) -> Tensor:
    """Return the summed loss of some positions; their logits become its gradient in place, if anything learns."""
    block = BLOCK if logits.device.type == "cpu" else len(logits)
    total = torch.zeros((), device=logits.device)
    for some, tokens in zip(logits.split(block), targets.unsqueeze(1).split(block), strict=True):
        shares = some.float()  # float32 logits themselves, where they are float32 already
        shares -= shares.amax(1, keepdim=True)
        at_target = shares.gather(1, tokens)
        sums = shares.exp_().sum(1, keepdim=True)
        total += (sums.log() - at_target).sum()
        if learning:
            shares /= sums
            shares.scatter_add_(1, tokens, torch.full_like(at_target, -1.0))
            some.copy_(shares)
    return total


def _add(total: Tensor, more: Tensor) -> None:
    """Add in place, on a CPU so many lines at a time as stay in its cache."""
    lines = LINES if total.device.type == "cpu" else len(total)
    for into, part in zip(total.split(lines), more.split(lines), strict=True):
        into += part
