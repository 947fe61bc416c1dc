"""Toy jobs: shard s holds the squares of ten whole numbers from 10 s on; and workers of them as real processes."""

import argparse
import json
import logging
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from recbole_think.artifacts import write_text
from recbole_think.cluster import leases
from recbole_think.cluster.job import Job, Rules, read_job, write_job
from recbole_think.cluster.merge import merge
from recbole_think.cluster.queue import Queue
from recbole_think.cluster.worker import work

ROOT = Path(__file__).resolve().parents[2]
ROWS = 10
NAME = "squares.txt"


def squares(shards: int) -> list[int]:
    """What one process would give."""
    return [number**2 for number in range(ROWS * shards)]


@dataclass
class Squares:
    """Computes squares; shards named in ``bad`` fail."""

    shard_s: float = 0.0
    bad: frozenset[int] = frozenset()
    made: int = 0

    def compute(self, shard: int) -> list[int]:
        time.sleep(self.shard_s)
        if shard in self.bad:
            raise ValueError(f"no squares in shard {shard}")
        self.made += 1
        return [number**2 for number in range(ROWS * shard, ROWS * (shard + 1))]

    def write(self, made: list[int], folder: Path) -> None:
        write_text(folder / NAME, "\n".join(map(str, made)) + "\n")

    def join(self, results: list[Path], folder: Path) -> None:
        write_text(folder / NAME, "".join((path / NAME).read_text() for path in results))


def toy_job(folder: Path, shards: int = 5, kind: str = "squares", **rules) -> Job:
    return write_job(folder, {"task": "toy", "kind": kind, "shards": shards}, Rules(**rules))[0]


def joined(job: Job, out: Path) -> list[int]:
    """Rows of a finished job, in their order."""
    merge(Queue(job, "merge"), Squares().join, out)
    return [int(line) for line in (out / NAME).read_text().split()]


def begin(job: Job, name: str, shard_s: float = 0.0, skew_s: float = 0.0) -> subprocess.Popen:
    """Start a worker as a process of its own.

    Args:
        job: to work on.
        name: of the worker.
        shard_s: how long it takes over a shard.
        skew_s: how far all its clocks are off.
    """
    words = [str(job.folder), name, f"--shard_s={shard_s}", f"--skew_s={skew_s}"]
    return subprocess.Popen(
        [sys.executable, "-m", "tests.cluster.toy", *words], cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def until(true, timeout_s: float = 60.0) -> None:
    """Wait until something holds."""
    begun = time.monotonic()
    while not true():
        assert time.monotonic() - begun < timeout_s, "it never came true"
        time.sleep(0.01)


def at_work(job: Job) -> dict[str, int]:
    """Shard of every worker that says it is at one."""
    found = {}
    for shard, number in leases.newest(job.folder / "leases").items():
        holder = leases.read(job.folder / "leases", shard, number)
        if holder and holder.state == leases.WORKING and not Queue(job, "test").result(shard).exists():
            found[holder.worker] = shard
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("name")
    parser.add_argument("--shard_s", type=float)
    parser.add_argument("--skew_s", type=float)
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    for clock in ("time", "monotonic"):
        whole = getattr(time, clock)
        setattr(time, clock, lambda whole=whole: whole() + given.skew_s)
    queue = Queue(read_job(given.folder), given.name, time.monotonic)
    tally = work(queue, Squares(given.shard_s))
    sys.stderr.write(json.dumps({"made": tally.made, "late": tally.late}) + "\n")


if __name__ == "__main__":
    main()
