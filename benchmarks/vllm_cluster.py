"""Lists shared out to workers with a real vLLM server each, one of which is killed for good, beside one process's own.

    <python with vllm and this package> benchmarks/vllm_cluster.py [--servers=2] [--folder=runs/vllm-check]

Takes the run that `make vllm-check` trains, without its thoughts, in float32. The killed server's worker gives up after
three shards that fail; the others make them. Writes benchmarks/results/vllm_cluster.json. Servers share this machine's
cores: seconds say that it works, not how it scales.
"""

import json
import os
import subprocess
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from bench import keep, options
from clusters import COMMAND, done
from vllm_check import trained
from vllm_server import VllmServer

from recbole_think.artifacts import read_json
from recbole_think.cluster.job import read_job
from recbole_think.cluster.leases import newest
from recbole_think.cluster.queue import Queue

PATIENCE_S = 20  # a worker asks a server that is gone for so long
PAUSE_S = 0.5


def main() -> None:
    """Make the lists in one process, then by servers, and compare."""
    parser = options(__doc__, servers=2, shard_users=24)
    parser.add_argument("--folder", default="runs/vllm-check")
    given = parser.parse_args()
    os.environ.setdefault("NO_PROXY", "127.0.0.1")  # questions to loopback are for no proxy
    run, plain = trained(Path(given.folder).resolve())
    words = ["--task=rank", f"--run_folder={given.folder}", f"--shard_users={given.shard_users}", "--lease_s=60"]
    words += ["--decode.think=false", "--decode.precision=float32", "--decode.tokens_per_batch=2048"]
    with tempfile.TemporaryDirectory() as place, ExitStack() as stack:
        own, by_servers = Path(place, "own"), Path(place, "by_servers")
        done("plan", own, *words)
        own_s = timed(lambda: done("work", own))
        done("merge", own, f"--out={own}-out")
        most = max(run.model.codes.sizes)
        servers = [stack.enter_context(VllmServer(plain, "float32", most)) for _ in range(given.servers)]
        done("plan", by_servers, *words, "--decode.engine=openai")
        begun = time.perf_counter()
        codes, said = shared_out(by_servers, servers)
        seconds = round(time.perf_counter() - begun, 1)
        done("merge", by_servers, f"--out={by_servers}-out")
        outcome = {**compared(own, by_servers), "exit_codes": codes, "the_last_said": said}
        outcome["seconds"] = {"own": own_s, "by_servers": seconds}
    print(json.dumps(outcome, indent=2))
    given.folder = Path(given.folder).name
    keep("vllm_cluster", given, **outcome)


def timed(work) -> float:
    """Seconds of some work."""
    begun = time.perf_counter()
    work()
    return round(time.perf_counter() - begun, 1)


def shared_out(folder: Path, servers: list[VllmServer]) -> tuple[list[int], str]:
    """Start a worker beside each server, kill the last server when its worker has made a shard.

    Returns:
        The workers' exit codes, and the last words of the one whose server is gone.
    """
    job = read_job(folder)
    workers = [
        subprocess.Popen(
            [*COMMAND, "work", str(folder), f"--worker_name=w{number}", f"--engine.url={server.url}",
             f"--engine.patience_s={PATIENCE_S}"],
            env={**os.environ, "OMP_NUM_THREADS": "1"}, stderr=Path(f"{folder}-w{number}.log").open("w"),
        )
        for number, server in enumerate(servers)
    ]  # fmt: skip
    last = f"w{len(servers) - 1}"
    while last not in makers(job):
        if all(worker.poll() is not None for worker in workers):
            raise SystemExit("all ended before a server could be killed: make shards smaller")
        time.sleep(PAUSE_S)
    servers[-1].kill()
    codes = [worker.wait() for worker in workers]
    return codes, Path(f"{folder}-{last}.log").read_text(encoding="utf-8").strip().splitlines()[-1]


def makers(job) -> list[str]:
    """Who made the shards that are there."""
    queue = Queue(job, "look")
    queue.look()
    return [facts["worker"] for facts in queue.results.values()]


def compared(own: Path, by_servers: Path) -> dict[str, Any]:
    """What the servers' job found beside what one process found."""
    one, other = (lists(Path(f"{folder}-out")) for folder in (own, by_servers))
    metrics = [read_json(Path(f"{folder}-out", "metrics.json"))["metrics"] for folder in (own, by_servers)]
    job = read_job(by_servers)
    queue = Queue(job, "look")
    queue.look()
    names = makers(job)
    return {
        "users": len(other),
        "every_user_once": sorted(one) == sorted(other),
        "same_lists": sum(one[user] == other[user] for user in one) / len(one),
        "metrics": {"own": metrics[0], "by_servers": metrics[1]},
        "shards": job.shards,
        "shards_of_workers": {name: names.count(name) for name in sorted(set(names))},
        "taken_over": sorted(shard for shard, number in newest(job.folder / "leases").items() if number > 1),
    }


def lists(out: Path) -> dict[str, list]:
    """Items by user."""
    rows = [json.loads(line) for line in (out / "lists.jsonl").read_text(encoding="utf-8").splitlines()]
    found = {row["user"]: row["items"] for row in rows}
    assert len(found) == len(rows)
    return found


if __name__ == "__main__":
    main()
