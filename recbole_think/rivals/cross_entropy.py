"""Cross-entropy over a whole catalogue, a hundred positions at a time, gradients made on the way.

The usual way writes the logits of all positions to memory, reads them back for the softmax, for its gradient and for
both products of the backward pass. Here the logits of a chunk stay in the processor's cache, and become their own
gradient in place: on a CPU the loss takes little more than its three products, and its memory does not grow with the
batch.
N positions, n of a chunk, d hidden size, V rows of the item table.
"""

from typing import Any

import torch
from torch import Tensor

CHUNK = {"cpu": 128}  # positions whose logits exist at once; 128 x 1,683 films x 4 bytes fit a second-level cache
LARGE = 8192  # on other devices: enough for the products to run at full speed


def catalogue_loss(hidden: Tensor, table: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy of ``targets`` under a softmax over all rows of ``table``.

    The number and the gradients of ``cross_entropy(hidden @ table.T, targets)``, in float32.

    Args:
        hidden: [N, d].
        table: [V, d], the item embeddings.
        targets: int64 [N].
    """
    mean: Any = _Mean.apply
    with torch.autocast(hidden.device.type, enabled=False):
        return mean(hidden.float(), table, targets)


class _Mean(torch.autograd.Function):
    """Loss and gradients in one pass over the chunks; backward only scales."""

    @staticmethod
    def forward(ctx, hidden, table, targets):
        step = CHUNK.get(hidden.device.type, LARGE)
        of_hidden, of_table = torch.empty_like(hidden), torch.zeros_like(table)
        buffer = hidden.new_empty(min(step, len(hidden)), len(table))
        total = hidden.new_zeros(())
        for begin in range(0, len(hidden), step):
            some = hidden[begin : begin + step]  # [n, d]
            logits = torch.mm(some, table.T, out=buffer[: len(some)])  # [n, V]
            total += _into_gradients(logits, targets[begin : begin + step, None], len(hidden))
            torch.mm(logits, table, out=of_hidden[begin : begin + step])
            of_table.addmm_(logits.T, some)
        ctx.save_for_backward(of_hidden, of_table)
        return total / len(hidden)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient):
        of_hidden, of_table = ctx.saved_tensors
        return of_hidden * gradient, of_table * gradient, None


def _into_gradients(logits: Tensor, targets: Tensor, count: int) -> Tensor:
    """Return the summed loss of logits [n, V] with targets [n, 1]; they become the gradient of a mean of ``count``."""
    logits -= logits.amax(1, keepdim=True)
    at_target = logits.gather(1, targets)
    sums = logits.exp_().sum(1, keepdim=True)
    logits /= sums * count
    logits.scatter_add_(1, targets, torch.full_like(sums, -1 / count))
    return (sums.log() - at_target).sum()
