"""How a job stands: shards done, at work, failed, and the time left. Takes a queue and gives plain numbers or text."""

from typing import Any

from recbole_think.cluster.leases import FAILED, WORKING
from recbole_think.cluster.queue import DONE, FREE, Queue, counted
from recbole_think.cluster.worker import in_words

SHOWN = 20  # lines of shards


def status(queue: Queue) -> dict[str, Any]:
    """Look at a job.

    Returns:
        Number of shards ``done``, ``free``, ``working`` and ``failed``; ``at_work``, and ``troubles`` of those that are
        not done, one by one; mean ``seconds_a_shard``, and ``seconds_left`` with as many at work as now, None where
        nobody is or nothing is done.
    """
    standings = queue.look()
    found = counted(standings)
    took = [facts["seconds"] for facts in queue.results.values()]
    mean = sum(took) / len(took) if took else None
    at_work = [one for one in standings if one.state == WORKING]
    left = found[FREE] + found[WORKING]
    return {
        "job": queue.job.digest,
        "task": queue.job.facts["task"],
        "shards": queue.job.shards,
        **{state: found[state] for state in (DONE, WORKING, FREE, FAILED)},
        "seconds_a_shard": mean,
        "seconds_left": 0.0 if not left else mean * left / len(at_work) if mean and at_work else None,
        "at_work": [
            {"shard": one.shard, "worker": one.holder.worker, "host": one.holder.host, "seconds": one.holder.seconds,
             "silent_s": round(one.silent_s, 1)}
            for one in at_work if one.holder
        ],
        "troubles": [
            {"shard": one.shard, "state": one.state, "failures": one.holder.failures, "losses": one.holder.losses,
             "reason": one.holder.reason}
            for one in standings if one.holder and one.holder.reason
        ],
    }  # fmt: skip


def told(found: dict[str, Any]) -> str:
    """Text of ``status``."""
    counts = ", ".join(f"{found[state]} {state}" for state in (DONE, WORKING, FREE, FAILED))
    left = found["seconds_left"]
    time = "" if not left else f"; {in_words(left)} left"
    lines = [f"{found['task']}, job {found['job']}: {found['shards']} shards: {counts}{time}"]
    for one in found["at_work"][:SHOWN]:
        silent = f", not heard of for {one['silent_s']:.0f} s" if one["silent_s"] else ""
        lines.append(
            f"  shard {one['shard']}: {one['worker']} on {one['host']}, "
            f"for {one['seconds']:.0f} s when last heard of{silent}"
        )
    for one in found["troubles"][:SHOWN]:
        counts = f"{one['failures']} failures, {one['losses']} lost workers"
        lines.append(f"  shard {one['shard']} ({one['state']}; {counts}), last {one['reason']}")
    return "\n".join(lines) + "\n"
