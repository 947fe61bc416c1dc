"""The workers of one machine: one in this process, or several in processes of their own, each with a log in the job."""

import contextlib
import logging
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from recbole_think.cluster import tasks
from recbole_think.cluster.job import Job
from recbole_think.cluster.queue import Queue, ended
from recbole_think.cluster.worker import work
from recbole_think.errors import InputError

log = logging.getLogger(__name__)


def alone(job: Job, name: str, engine: Mapping[str, Any]) -> None:
    """Work in this process until no shard is left.

    Args:
        job: to work on.
        name: of the worker.
        engine: where the engine of this machine is, as ``Task.use`` takes it.

    Raises:
        InputError: the job cannot be worked on here.
    """
    with _logging_to(job.folder / "logs" / f"{name}.log", name):
        queue = Queue(job, name)
        if ended(queue.look()):
            log.info("no shard is left")
            return  # before minutes of loading
        task = tasks.opened(job)
        task.use(engine)
        tally = work(queue, task)
        log.info("no shard is left; %d were made here", tally.made)


@contextlib.contextmanager
def _logging_to(path: Path, name: str) -> Iterator[None]:
    """Send log lines to a file as well, and what ends the worker; every line names it."""
    try:
        handler = logging.FileHandler(path, encoding="utf-8")
    except OSError as why:
        raise InputError(f"{path} cannot be written: {why}") from why
    root = logging.getLogger()
    root.addHandler(handler)
    for one in root.handlers:
        one.setFormatter(logging.Formatter(f"%(asctime)s  {name}  %(message)s", datefmt="%H:%M:%S"))
    try:
        yield
    except InputError as why:
        handler.handle(logging.makeLogRecord({"levelno": logging.ERROR, "levelname": "ERROR", "msg": f"ended: {why}"}))
        raise
    finally:
        root.removeHandler(handler)
        handler.close()


def several(job: Job, name: str, count: int, words: Sequence[str]) -> None:
    """Start workers in processes of their own, and wait for them; one that dies is not started again.

    Args:
        job: to work on.
        name: of each, before its number.
        count: of workers.
        words: more of every command.

    Raises:
        InputError: all ended, and shards are left.
    """
    command = [sys.executable, "-m", "recbole_think.cluster", "work", str(job.folder), *words]
    running = [subprocess.Popen([*command, f"--worker_name={name}-{number}"]) for number in range(count)]
    try:
        for number, process in enumerate(running):
            if process.wait():
                log.warning("worker %s-%d ended with exit code %d", name, number, process.returncode)
    finally:
        for process in running:
            process.terminate()
        for process in running:
            process.wait()
    if not ended(Queue(job, name).look()):  # a worker that ends well leaves nothing
        raise InputError(f"all {count} workers ended before their time, and shards are left; see {job.folder / 'logs'}")
