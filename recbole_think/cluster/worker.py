"""A worker: takes shards until none is left, computes them, keeps their results.

Any number of them, on any machines, at any time; none knows of another. Takes a queue and something that computes, and
gives a count. SIGTERM and Ctrl-C let the shard at work go at once; a worker that is killed loses that shard to others.
"""

import logging
import time
import traceback
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from recbole_think.cluster.leases import FAILED, WORKING, Lease
from recbole_think.cluster.queue import DONE, Queue, Standing, counted, ended
from recbole_think.errors import InputError, UnavailableError

log = logging.getLogger(__name__)
LONGEST_WAIT_S = 5.0  # between two looks while others are at work on what is left
HOPELESS = 3  # different shards that fail here in a row


class Computes(Protocol):
    """What a shard is computed by."""

    def compute(self, shard: int) -> Any:
        """Compute a shard; what is raised is its failure, but for UnavailableError, which ends the worker."""

    def write(self, made: Any, folder: Path) -> None:
        """Write what was computed; what is raised is a failure of the storage."""


@dataclass
class Tally:
    """What a worker did."""

    made: int = 0  # results that are now in place
    late: int = 0  # results that others had put in place before
    seconds: float = 0.0  # of both
    failed: list[int] = field(default_factory=list)  # shards, in a row up to now


def work(queue: Queue, task: Computes) -> Tally:
    """Take shards until all are done or have failed.

    Raises:
        InputError: the storage cannot be used, nothing that is tried here succeeds, or what computes does not answer.
    """
    tally = Tally()
    try:
        while (lease := _next(queue)) is not None:
            with lease:
                _make(queue, task, lease, tally)
            if len(set(tally.failed)) >= HOPELESS:
                raise InputError(
                    f"{HOPELESS} shards in a row failed here, shard {lease.shard} with: {lease.holder.reason}; "
                    f"look at this machine and at the log, then start a worker again"
                )
    except BaseException:
        queue.let_go()
        raise
    return tally


def _next(queue: Queue) -> Lease | None:
    """Take a shard, waiting while others are at work on all that is left; None where nothing is left."""
    while (lease := queue.claim()) is None:
        if ended(queue.look()):
            return None
        time.sleep(min(queue.job.rules.lease_s / 5, LONGEST_WAIT_S))
    return lease


def _make(queue: Queue, task: Computes, lease: Lease, tally: Tally) -> None:
    try:
        made = task.compute(lease.shard)
    except UnavailableError:
        raise  # no fault of the shard: other workers, with engines of their own, can make it
    except Exception as why:  # whatever is wrong with one shard, the others go on
        lease.fail(f"{type(why).__name__}: {why}", traceback.format_exc())
        log.exception("shard %d failed (%d of %d)", lease.shard, lease.holder.failures, queue.job.rules.tries)
        tally.failed.append(lease.shard)
        return
    first = queue.finish(lease, partial(task.write, made))
    tally.failed.clear()
    tally.made, tally.late = tally.made + first, tally.late + (not first)
    tally.seconds += lease.seconds
    said = "done" if first else "was done by another worker meanwhile"
    log.info("shard %d %s in %.1f s; %s", lease.shard, said, lease.seconds, _progress(queue.look(), tally))


def _progress(standings: list[Standing], tally: Tally) -> str:
    found, all_ = counted(standings), len(standings)
    left = all_ - found[DONE] - found[FAILED]
    seconds = tally.seconds / (tally.made + tally.late) * left / (found[WORKING] + 1)  # others, and this one
    failed = f", {found[FAILED]} failed" if found[FAILED] else ""
    return f"{found[DONE]} of {all_} done{failed}, {found[WORKING]} at work elsewhere, {in_words(seconds)} left"


def in_words(seconds: float) -> str:
    """A time to come, roughly."""
    if seconds < 90:
        return f"some {seconds:.0f} s"
    return f"some {seconds / 60:.0f} min" if seconds < 5400 else f"some {seconds / 3600:.1f} h"
