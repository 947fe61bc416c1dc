"""One job over many machines that see one folder.

python -m recbole_think.cluster plan <job> --task=rank --run_folder=<finished run> [--split=valid] [--decode.<key>=...]
python -m recbole_think.cluster plan <job> --task=think --run_folder=<finished run> [--split=all]
python -m recbole_think.cluster plan <job> --task=codes --vectors=<.npy> [--levels=3] [--size=256]
python -m recbole_think.cluster work <job> [--workers=4]      on every machine, at any time; again after a kill
                                     [--engine.url=...]      where decode.engine is for this machine
python -m recbole_think.cluster status <job>
python -m recbole_think.cluster retry <job>                   lets shards that failed be tried again
python -m recbole_think.cluster merge <job> --out=<folder>

Exit codes: 0 done, 1 shards have failed, 2 something asked for cannot be done, 130 interrupted.
"""

import argparse
import contextlib
import json
import logging
import os
import re
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from recbole_think import processes
from recbole_think.cluster.job import Rules, read_job, write_job
from recbole_think.cluster.leases import FAILED
from recbole_think.cluster.queue import Queue, counted
from recbole_think.cluster.storage import host
from recbole_think.errors import InputError, exit_code
from recbole_think.options import check
from recbole_think.quiet import quiet

WORDS = re.compile(r"[A-Za-z0-9._-]+")


def main(argv: Sequence[str]) -> int:
    """Run the command line; return the exit code."""
    parser = _parser()
    given, more = parser.parse_known_args(argv)
    if more and given.command not in ("plan", "work"):
        parser.error(f"unrecognized arguments: {' '.join(more)}")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # lets go of the shard at work, as Ctrl-C does
    logging.getLogger("recbole_think.cluster").setLevel(logging.INFO)
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s  %(message)s", datefmt="%H:%M:%S")
    quiet()
    doing = {"plan": _plan, "work": _work, "status": _status, "retry": _retry, "merge": _merge}[given.command]
    return exit_code(lambda: doing(given, more), "the shard at work is free for others")


def _plan(given: argparse.Namespace, words: Sequence[str]) -> int:
    from recbole_think.cluster import tasks

    rules = Rules(given.lease_s, given.tries, given.losses)
    with contextlib.redirect_stdout(sys.stderr):
        task, facts = tasks.planned(given.task, _options(words))
        job, fresh = write_job(given.job, facts, rules, task.prepare)
    said = "planned" if fresh else "was planned before"
    sys.stdout.write(f"{job.folder} {said}: {job.facts['task']}, {job.shards} shards, job {job.digest}\n")
    return 0


def _options(words: Sequence[str]) -> dict[str, Any]:
    """Read ``--key=value`` and ``--block.key=value`` words; values as YAML has them, paths made absolute."""
    from recbole_think.search.space import loaded

    found: dict[str, Any] = {}
    for word in words:
        key, equals, text = word.removeprefix("--").partition("=")
        if not (word.startswith("--") and equals and key):
            raise InputError(f"write options as --key=value, got {word!r}")
        block, dot, inner = key.partition(".")
        if dot and isinstance(found.get(block, {}), dict):
            found.setdefault(block, {})[inner] = loaded(text, f"--{key}")
        elif key in ("run_folder", "vectors"):
            found[key] = str(Path(text).expanduser().resolve())
        else:
            found[key] = text if key == "mask_history" else loaded(text, f"--{key}")
    return found


def _work(given: argparse.Namespace, words: Sequence[str]) -> int:
    from recbole_think.cluster.station import alone, several

    check(given.workers >= 1, f"--workers must be at least 1, got {given.workers}")
    name = given.worker_name or f"{host()}-{os.getpid()}"
    check(bool(WORDS.fullmatch(name)), f"--worker_name may hold letters, digits, '.', '_' and '-', got {name!r}")
    if processes.launched() > 1:
        raise InputError("workers are started one by one, not as one job of several processes (WORLD_SIZE is set)")
    here = _options(words)
    for key in here:
        check(key == "engine", f"unknown option --{key}; a worker takes --engine.<key>=<value>, the rest is planned")
    job = read_job(given.job)
    with contextlib.redirect_stdout(sys.stderr):  # some models print; standard output is for results
        if given.workers > 1:
            several(job, name, given.workers, words)
        else:
            alone(job, name, here.get("engine", {}))
    failed = counted(Queue(job, name).look())[FAILED]
    if failed:
        sys.stdout.write(f"{failed} of {job.shards} shards have failed; status says why\n")
    return 1 if failed else 0


def _status(given: argparse.Namespace, _: Sequence[str]) -> int:
    from recbole_think.cluster.status import status, told

    queue = Queue(read_job(given.job), "status")
    if given.watch_s:
        queue.look()
        time.sleep(given.watch_s)
    found = status(queue)
    sys.stdout.write(json.dumps(found, indent=2) + "\n" if given.json else told(found))
    return 1 if found[FAILED] else 0


def _retry(given: argparse.Namespace, _: Sequence[str]) -> int:
    again = Queue(read_job(given.job), "retry").retry()
    sys.stdout.write(f"{len(again)} shards may be tried again{': ' if again else ''}{', '.join(map(str, again))}\n")
    return 0


def _merge(given: argparse.Namespace, _: Sequence[str]) -> int:
    from recbole_think.cluster import tasks
    from recbole_think.cluster.merge import merge, require_all

    job = read_job(given.job)
    queue = Queue(job, "merge")
    require_all(queue)  # before minutes of loading
    with contextlib.redirect_stdout(sys.stderr):
        merge(queue, tasks.opened(job).join, given.out, given.replace)
    sys.stdout.write(f"{given.out}\n")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m recbole_think.cluster", description=__doc__, allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    commands = parser.add_subparsers(dest="command", required=True)
    of = {
        name: commands.add_parser(name, help=said, allow_abbrev=False)
        for name, said in {
            "plan": "write a job, or find it there", "work": "take shards until none is left",
            "status": "say how a job stands", "retry": "let shards that failed be tried again",
            "merge": "join the results of a finished job",
        }.items()
    }  # fmt: skip
    for one in of.values():
        one.add_argument("job", type=Path, help="folder of the job, on storage that all machines share")
    rules, plan, work, merge = Rules(), of["plan"], of["work"], of["merge"]
    plan.add_argument("--task", required=True, help="rank, think or codes; its options as --key=value")
    plan.add_argument("--lease_s", type=float, default=rules.lease_s,
                      help="a worker not heard of for so long is lost (default: %(default)s)")  # fmt: skip
    plan.add_argument("--tries", type=int, default=rules.tries, help="of a shard that fails (default: %(default)s)")
    plan.add_argument("--losses", type=int, default=rules.losses,
                      help="workers that may be lost at a shard (default: %(default)s)")  # fmt: skip
    work.add_argument("--workers", type=int, default=1, help="processes on this machine (default: 1)")
    work.add_argument("--worker_name", default="", help="in leases and logs (default: host and process)")
    of["status"].add_argument("--json", action="store_true")
    of["status"].add_argument("--watch_s", type=float, default=0.0, help="look twice, and say who was silent between")
    merge.add_argument("--out", type=Path, required=True, help="a folder that is not there yet")
    merge.add_argument("--replace", action="store_true", help="take away what an earlier merge wrote there")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
