"""Dropout whose random numbers cost a CPU a byte each: the same expectation as torch's, a sixth of the time.

torch draws a random number per feature on one core, which was a sixth of a training step of a small transformer, and
more than a quarter of one of a language model with dropout in its layers; compiled it costs more still. Here one 64-bit
draw decides on eight features. A rate is thereby one of 256 (0.2 becomes 51/256 = 0.199); what is kept is scaled by the
rate that was really used, so the expectation is exact.
"""

import torch
from torch import Tensor
from torch.nn import functional

STEPS = 256  # values of a byte


def dropout(values: Tensor, rate: float, training: bool = True) -> Tensor:
    """Zero a share ``rate`` of ``values`` (any shape) at random and scale the rest up.

    Args:
        values: float tensor.
        rate: share to drop, in [0, 1).
        training: False returns ``values`` as they are.
    """
    dropped = round(rate * STEPS)
    if not training or dropped == 0:
        return values
    if values.device.type != "cpu" or dropped == STEPS:
        return functional.dropout(values, rate)  # a GPU's own kernel is as cheap
    return values * kept(values, dropped).to(values.dtype).mul_(STEPS / (STEPS - dropped))


# One operator to the compiler, which would draw number by number; "seeded" keeps it from drawing anew when going back.
@torch.library.custom_op("recbole_think::kept", mutates_args=(), tags=(torch.Tag.nondeterministic_seeded,))
def kept(values: Tensor, dropped: int) -> Tensor:
    """Which of ``values`` are kept, bool of their shape: each with probability 1 - ``dropped`` / 256."""
    draws = torch.empty((values.numel() + 7) // 8, dtype=torch.int64).random_(-(2**63), None)
    return draws.view(torch.uint8)[: values.numel()].view(values.shape) >= dropped


@kept.register_fake
def _(values: Tensor, dropped: int) -> Tensor:
    return torch.empty(values.shape, dtype=torch.bool, device=values.device)
