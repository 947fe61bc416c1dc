"""All results of a finished job in one folder, each row once. Takes a queue and a task; leaves the job as it is."""

from collections.abc import Callable
from pathlib import Path

from recbole_think.artifacts import fresh_folder, write_json
from recbole_think.cluster.leases import FAILED
from recbole_think.cluster.queue import DONE, Queue
from recbole_think.cluster.storage import FACTS
from recbole_think.errors import InputError

SHOWN = 10  # missing shards that are named


def merge(queue: Queue, join: Callable[[list[Path], Path], object], out: Path, replace: bool = False) -> None:
    """Join the results of all shards.

    Args:
        queue: of the job.
        join: reads the results' folders, in the order of the shards, and writes into the folder it is given.
        out: a folder that is not there yet.
        replace: take one away that was made by this command.

    Raises:
        InputError: shards are missing or damaged, or the folder cannot be written.
    """
    require_all(queue)
    paths = [queue.checked(shard) for shard in range(queue.job.shards)]
    with fresh_folder(out, replace, FACTS) as draft:
        join(paths, draft)
        workers = sorted({facts["worker"] for facts in queue.results.values()})
        write_json(draft / FACTS, {"job": queue.job.digest, **queue.job.facts, "workers": workers})


def require_all(queue: Queue) -> None:
    """Refuse a job that is not finished.

    Raises:
        InputError: shards are missing; it names them.
    """
    standings = queue.look()
    missing = [one.shard for one in standings if one.state != DONE]
    if not missing:
        return
    named = ", ".join(map(str, missing[:SHOWN])) + (", ..." if len(missing) > SHOWN else "")
    failed = [one for one in standings if one.state == FAILED and one.holder]
    remedy = "start workers, or wait for those at work"
    if failed:
        remedy = f"see {queue.job.folder / 'logs'}; retry lets failed shards be tried again"
    reasons = "".join(f"\n  shard {one.shard} has failed, last {one.holder.reason}" for one in failed[:SHOWN])  # type: ignore[union-attr]
    raise InputError(f"{len(missing)} of {queue.job.shards} shards are missing: {named}; {remedy}{reasons}")
