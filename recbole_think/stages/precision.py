"""Is bfloat16 faster on this machine? Measured once, at the backbone's own shapes, and kept.

A processor without AMX or native bf16 emulates it slower than float32; one with it gains 3-9 x in the products.
"""

import time
from pathlib import Path
from typing import Any

import torch

from recbole_think.artifacts import read_json, write_json

WORTH_IT = 1.3  # bf16 must be this many times faster


def choose(wanted: str, folder: Path, width: int, inner: int) -> torch.dtype:
    """Return the dtype to train and decode in.

    Args:
        wanted: ``auto``, ``float32`` or ``bfloat16``.
        folder: run folder; the measurement is written to ``precision.json`` and reused on resume.
        width: hidden size of the backbone.
        inner: its feed-forward size.
    """
    if wanted != "auto":
        return getattr(torch, wanted)
    path = folder / "precision.json"
    if not path.is_file():
        dtype, ratio = fastest(width, inner)
        chosen = str(dtype).removeprefix("torch.")
        write_json(path, {"chosen": chosen, "bfloat16_over_float32": round(ratio, 2), "shape": [1024, width, inner]})
    return getattr(torch, read_json(path)["chosen"])


def fastest(width: int, inner: int) -> tuple[torch.dtype, float]:
    """Return the faster dtype, and how many times faster bfloat16 was, for products of these sizes."""
    ratio = _speed_ratio(width, inner)
    return torch.bfloat16 if ratio >= WORTH_IT else torch.float32, ratio


def autocast(model: Any, wanted: str, folder: Path) -> torch.autocast:
    """Return the context in which ``model`` computes in the dtype that ``choose`` gives it."""
    config = model.config
    dtype = choose(wanted, folder, config.hidden_size, config.intermediate_size)
    device = next(model.parameters()).device.type
    return torch.autocast(device, dtype=dtype, enabled=dtype != torch.float32)


def _speed_ratio(width: int, inner: int) -> float:
    """Seconds in float32 over seconds in bfloat16 for one matrix product."""
    if torch.cuda.is_available():
        return 2.0 if torch.cuda.is_bf16_supported() else 0.0
    seconds = {}
    dice = torch.Generator().manual_seed(0)  # of its own: training's random stream may not depend on who measured when
    for dtype in (torch.float32, torch.bfloat16):
        left, right = torch.randn(1024, width, generator=dice), torch.randn(width, inner, generator=dice)
        left, right = left.to(dtype), right.to(dtype)
        best = float("inf")
        for _ in range(7):  # the first products set up; the best one counts
            start = time.perf_counter()
            left @ right
            best = min(best, time.perf_counter() - start)
        seconds[dtype] = best
    return seconds[torch.float32] / seconds[torch.bfloat16]
