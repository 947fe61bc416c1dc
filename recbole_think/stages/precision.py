"""Is bfloat16 faster on this machine? Measured once, at the backbone's own shapes, and kept.

A processor with AMX or native bf16 gains 3-9 x in the products. One without emulates them: where that takes many times
as long, float32, which is the more exact of the two, is taken even if bfloat16 was asked for, and the log says so.
"""

import logging
import time
from functools import cache
from pathlib import Path
from typing import Any

import torch

from recbole_think.artifacts import read_json, write_json

log = logging.getLogger(__name__)
NAME = "precision.json"  # in the run folder
WORTH_IT = 1.3  # bf16 must be this many times faster to be chosen,
HOPELESS = 0.2  # and this many times as fast to be used at all
RATIO = "bfloat16_over_float32"
ROWS = 1024  # of the product that is measured
PATIENCE = 1.0  # seconds after which no further product is tried


def choose(wanted: str, folder: Path, width: int, inner: int) -> torch.dtype:
    """Return the dtype to train and decode in.

    Args:
        wanted: ``auto``, ``float32`` or ``bfloat16``; the last one is refused, with a warning, where it is hopeless.
        folder: run folder; the measurement is written to ``precision.json`` and reused on resume.
        width: hidden size of the backbone.
        inner: its feed-forward size.
    """
    if wanted == "float32":
        return torch.float32
    path = folder / NAME
    if not path.is_file():
        dtype, ratio = fastest(width, inner)
        chosen = str(dtype).removeprefix("torch.")
        write_json(path, {"chosen": chosen, RATIO: float(f"{ratio:.2g}"), "shape": [ROWS, width, inner]})
    kept = read_json(path)
    if wanted == "auto":
        return getattr(torch, kept["chosen"])
    if kept[RATIO] >= HOPELESS:
        return torch.bfloat16
    _say_refused(folder.absolute(), kept[RATIO])
    return torch.float32


@cache  # once a run
def _say_refused(_: Path, ratio: float) -> None:
    log.warning(
        "bfloat16 was asked for, and products in it take this machine %.0f times as long as in float32: float32 is "
        "used (a processor with AVX512-BF16 or AMX, or a GPU, has them)", 1 / max(ratio, 1e-9),
    )  # fmt: skip


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
        left, right = torch.randn(ROWS, width, generator=dice), torch.randn(width, inner, generator=dice)
        left, right = left.to(dtype), right.to(dtype)
        tries: list[float] = []
        while len(tries) < 7 and sum(tries) < PATIENCE:  # the first products set up; the best one counts
            start = time.perf_counter()
            left @ right
            tries.append(time.perf_counter() - start)
        seconds[dtype] = min(tries)
    return seconds[torch.float32] / seconds[torch.bfloat16]
