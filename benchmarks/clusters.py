"""An evaluation shared out to workers of which some are killed, and its metrics beside those of the run itself.

    python benchmarks/clusters.py --run_folder=<finished run that makes lists> --workers=3 --kills=2 --shard_users=32

A killed worker (SIGKILL, at moments drawn by seed) is replaced by another. Seconds are of processes that share this
machine's cores, each of which loads the run first: they say that it works, not how it scales.
"""

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench import keep, options

from recbole_think.artifacts import read_json
from recbole_think.cluster.job import Job, read_job
from recbole_think.cluster.leases import newest
from recbole_think.cluster.queue import Queue

COMMAND = [sys.executable, "-m", "recbole_think.cluster"]
PAUSE_S = (0.5, 4.0)  # between two kills


def main() -> None:
    """Plan, share out, kill, merge, compare."""
    parser = options(__doc__, workers=3, kills=2, shard_users=32, lease_s=10, seed=0)
    parser.add_argument("--run_folder", required=True)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder, out = Path(scratch, "job"), Path(scratch, "out")
        words = [f"--run_folder={given.run_folder}", f"--shard_users={given.shard_users}", f"--lease_s={given.lease_s}"]
        done("plan", folder, "--task=rank", *words)
        begun = time.perf_counter()
        killed = shared_out(read_job(folder), given)
        seconds = time.perf_counter() - begun
        done("merge", folder, f"--out={out}")
        outcome = compared(
            read_job(folder), read_json(out / "metrics.json"), read_json(Path(given.run_folder) / "metrics.json")
        )
    print(json.dumps({**outcome, "killed": killed, "seconds": round(seconds, 1)}, indent=2))
    given.run_folder = Path(given.run_folder).name
    keep("clusters", given, **outcome, killed=killed, seconds=round(seconds, 1))


def done(command: str, *words: object) -> None:
    """Run a command to its end."""
    subprocess.run([*COMMAND, command, *map(str, words)], check=True)


def shared_out(job: Job, given) -> list[dict]:
    """Let workers take all shards, and kill some; say at which shards those were."""
    dice, killed = random.Random(given.seed), list[dict]()
    workers = {f"w{number}": begin(job, f"w{number}") for number in range(given.workers)}
    while len(killed) < given.kills:
        time.sleep(dice.uniform(*PAUSE_S))
        holders = {
            one.holder.worker: one.shard for one in Queue(job, "look").look() if one.state == "working" and one.holder
        }
        alive = sorted(name for name in holders if workers[name].poll() is None)
        if len(alive) == given.workers or (killed and alive):  # the first one when all are at work
            chosen = dice.choice(alive)
            workers[chosen].send_signal(signal.SIGKILL)
            workers[chosen].wait()
            killed.append({"worker": chosen, "shard": holders[chosen]})
            name = f"w{len(workers)}"
            workers[name] = begin(job, name)
        elif all(worker.poll() is not None for worker in workers.values()):
            raise SystemExit("all ended before enough could be killed: make shards smaller")
    codes = [worker.wait() for worker in workers.values()]
    assert codes.count(0) == len(codes) - len(killed), codes
    return killed


def begin(job: Job, name: str) -> subprocess.Popen:
    """Start a worker."""
    return subprocess.Popen(
        [*COMMAND, "work", str(job.folder), f"--worker_name={name}"], env={**os.environ, "OMP_NUM_THREADS": "1"}
    )


def compared(job: Job, found: dict, run: dict) -> dict:
    """What came out beside what one process found."""
    queue = Queue(job, "look")
    queue.look()
    leases = newest(job.folder / "leases")
    return {
        "shards": job.shards,
        "users": found["users"],
        "same_metrics": found["metrics"] == run["test"] and found["standard_error"] == run["standard_error"],
        "metrics": found["metrics"],
        "metrics_of_one_process": run["test"],
        "taken_over": sorted(shard for shard, number in leases.items() if number > 1),
        "shards_of_workers": {
            name: sum(facts["worker"] == name for facts in queue.results.values())
            for name in sorted({facts["worker"] for facts in queue.results.values()})
        },
    }


if __name__ == "__main__":
    main()
