"""What every benchmark does alike: whole-number options, sides that take turns, a record with the machine beside it."""

import argparse
import os
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from recbole_think.artifacts import versions, write_json
from recbole_think.machine import hardware

RESULTS = Path(__file__).parent / "results"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def options(doc: str, **defaults: int) -> argparse.ArgumentParser:
    """A parser of ``--name=<whole number>`` options, described by the first line of a script."""
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    for name, value in defaults.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    return parser


def in_turn(sides: Mapping[str, Callable[[], Any]], repeats: int) -> tuple[dict[str, list[float]], dict[str, Any]]:
    """Run every side ``repeats`` times, in turn; give wall seconds and the last outcome of each."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    outcomes = {}
    for _ in range(repeats):
        for name, side in sides.items():
            start = time.perf_counter()
            outcomes[name] = side()
            seconds[name].append(time.perf_counter() - start)
    return seconds, outcomes


def medians(found: dict[str, list[float]]) -> dict[str, float]:
    """Median of every side."""
    return {name: statistics.median(values) for name, values in found.items()}


def agreement(one: list[list[int]], other: list[list[int]]) -> dict[str, Any]:
    """How far two sets of ranked lists are the same."""
    pairs = list(zip(one, other, strict=True))
    return {
        "identical_lists": sum(a == b for a, b in pairs),
        "overlap": statistics.mean(len(set(a) & set(b)) / len(a) for a, b in pairs),
    }


def keep(name: str, given: argparse.Namespace, **outcome: Any) -> None:
    """Write ``results/<name>.json``: settings, outcome, machine, versions."""
    write_json(RESULTS / f"{name}.json", record(given, **outcome))


def record(given: argparse.Namespace, **outcome: Any) -> dict[str, Any]:
    """Settings, outcome, machine, versions."""
    machine = {"torch_threads": torch.get_num_threads(), "load_average": round(os.getloadavg()[0], 2)}
    return {"setting": vars(given), **outcome, **machine, "hardware": hardware(), "versions": versions()}
