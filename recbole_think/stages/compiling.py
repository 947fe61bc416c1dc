"""Decoder layers through torch.compile while a stage trains: the work between products becomes a few fused kernels.

The layer is compiled once, with open shapes, and shared by all layers, so the time this takes does not grow with depth;
it is still tens of seconds, which a short stage never earns back. Where there is no compiler, training goes on without.
The model is left as it was. Validation, whose shapes are others, runs uncompiled.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

import torch

log = logging.getLogger(__name__)
WORTH_IT = 2e14  # floating-point operations of a stage's products above which compiling pays on a CPU
Score = Callable[[], float]


def worth_it(wanted: str, model: Any, tokens: int) -> bool:
    """Say whether a stage that reads ``tokens`` should compile.

    Args:
        wanted: ``always``, ``never`` or ``auto``: by the length of the stage, on a CPU (nothing was measured on a GPU).
        model: the language model.
        tokens: to be read by the stage.
    """
    if wanted != "auto":
        return wanted == "always"
    decoder = model.get_decoder()
    weights = sum(value.numel() for layer in decoder.layers for value in layer.parameters())
    return next(decoder.parameters()).device.type == "cpu" and 6.0 * weights * tokens >= WORTH_IT


@contextmanager
def compiled(model: Any, wanted: bool) -> Iterator[Callable[[Score], Score]]:
    """Run the decoder layers compiled within the block, if wanted and possible.

    Yields:
        What makes a function run the layers as they are.
    """
    if not wanted or not _can_compile(next(model.parameters()).device):
        yield lambda score: score
        return
    layers = list(model.get_decoder().layers)
    for layer in layers:
        layer.compile(dynamic=True)
    try:
        yield _uncompiled
    finally:
        for layer in layers:
            layer._compiled_call_impl = None  # what nn.Module.compile set; torch has no call that undoes it


def _uncompiled(score: Score) -> Score:
    @wraps(score)
    def run() -> float:
        with torch.compiler.set_stance("force_eager"):
            return score()

    return run


def _can_compile(device: torch.device) -> bool:
    """Try a trifle: a compiler may be missing, or the headers it needs."""
    try:
        torch.compile(_trifle)(torch.ones(8, device=device))
    except RuntimeError as why:  # of which all errors of torch.compile are a kind
        log.warning("nothing is compiled, training goes on as it is: %s", str(why).strip().splitlines()[0])
        return False
    return True


def _trifle(value: torch.Tensor) -> torch.Tensor:
    return value * 2 + 1
