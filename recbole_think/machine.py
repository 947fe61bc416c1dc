"""What an experiment ran on, and by which commit."""

import os
import platform
import resource
import subprocess
from pathlib import Path
from typing import Any

import torch


def commit() -> str:
    """Commit of the checkout this package runs from ("-dirty" when changed), or "installed"."""
    here = Path(__file__).resolve().parent.parent
    if not (here / ".git").exists():
        return "installed"
    done = subprocess.run(
        ["git", "-C", str(here), "describe", "--always", "--dirty", "--abbrev=12"], capture_output=True, text=True
    )
    return done.stdout.strip() or "unknown"


def peak_memory_mib() -> float:
    """Most memory this process has held so far, in MiB: on the GPU if it used one, else resident."""
    if torch.cuda.is_available() and (reserved := torch.cuda.max_memory_reserved()):
        return round(reserved / 2**20, 1)
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1)


def instructions(flags: set[str]) -> str:
    """Name the widest products of a processor, on which its speed hangs, from its flags in Linux; "" where none is."""
    known = {"amx_bf16": "AMX bf16", "avx512_bf16": "AVX512 bf16", "avx512f": "AVX512", "avx2": "AVX2"}
    return next((name for flag, name in known.items() if flag in flags), "")


def hardware() -> dict[str, Any]:
    """What this ran on."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    flags = next((set(line.split()) for line in lines if line.startswith("flags")), set())
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "cpu": names[0] if names else platform.processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "instructions": instructions(flags),
        "gpus": gpus,
        "platform": platform.platform(),
    }
