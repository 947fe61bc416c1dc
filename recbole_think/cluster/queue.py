"""The queue: which shard is next for this worker, and one result of each, whoever made it first.

There is no broker: every worker reads the job folder, and takes a shard by being first to put its next lease in place.
Two workers that both believe to have a shard do no harm, since a shard's result is put in place once. Knows nothing of
models.
"""

import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from zlib import crc32

from recbole_think.artifacts import write_json
from recbole_think.cluster import leases
from recbole_think.cluster.job import Job
from recbole_think.cluster.leases import FAILED, RELEASED, WORKING, Holder, Lease
from recbole_think.cluster.storage import FACTS, digests, host, put_first, read_facts, require_digests
from recbole_think.errors import InputError

DONE, FREE, STALE = "done", "free", "stale"


@dataclass(frozen=True)
class Standing:
    """How a shard stands."""

    shard: int
    state: str  # done, free, working, stale (working, but not renewed in time), failed
    lease: int = 0  # number of the newest one, 0 = none
    holder: Holder | None = None  # None where there is none, or where it cannot be read
    silent_s: float = 0.0  # since this process first saw the lease as it is


class Queue:
    """One worker's view of a job."""

    def __init__(self, job: Job, worker: str, clock: Callable[[], float] = time.monotonic):
        """Open the queue of a job.

        Args:
            job: what to work on.
            worker: name of whoever works.
            clock: seconds that only ever grow, of this process alone.
        """
        self.job, self.worker, self._clock = job, worker, clock
        self.results: dict[int, dict[str, Any]] = {}  # facts of finished shards
        self._leases, self._results = job.folder / "leases", job.folder / "results"
        self._seen: dict[int, tuple[tuple[int, int], float]] = {}  # lease and beat of a shard, and since when
        self._at_hand: Lease | None = None
        self._first = crc32(worker.encode()) % job.shards  # workers begin at different places

    def look(self) -> list[Standing]:
        """How every shard stands now.

        Raises:
            InputError: among the results is one of another job, or a damaged one.
        """
        self._read_results()
        newest = leases.newest(self._leases)
        return [self._standing(shard, newest.get(shard, 0)) for shard in range(self.job.shards)]

    def _standing(self, shard: int, lease: int) -> Standing:
        if shard in self.results:
            return Standing(shard, DONE)
        if not lease:
            return Standing(shard, FREE)
        holder = leases.read(self._leases, shard, lease)
        if holder is not None and holder.state == RELEASED:
            return Standing(shard, FREE, lease, holder)
        if holder is not None and holder.state == FAILED:
            gone = holder.failures >= self.job.rules.tries or holder.losses >= self.job.rules.losses
            return Standing(shard, FAILED if gone else FREE, lease, holder)
        silent_s = self._silence(shard, lease, holder.beat if holder else -1)
        state = STALE if silent_s > self.job.rules.lease_s else WORKING
        return Standing(shard, state, lease, holder, silent_s)

    def _silence(self, shard: int, lease: int, beat: int) -> float:
        """Seconds of this process's clock for which a lease has been seen as it is."""
        now = self._clock()
        seen, since = self._seen.get(shard, (None, now))
        if seen != (lease, beat):
            self._seen[shard], since = ((lease, beat), now), now
        return now - since

    def claim(self) -> Lease | None:
        """Take a shard; None where there is none to be had now."""
        waiting = [standing for standing in self.look() if standing.state in (FREE, STALE)]
        waiting.sort(key=lambda standing: (_failures(standing), (standing.shard - self._first) % self.job.shards))
        for standing in waiting:
            holder, number = self._holder(standing), standing.lease + 1
            self._at_hand = Lease(self._leases, standing.shard, number, holder, self._period_s, self._clock)
            if leases.take(self._leases, standing.shard, number, holder) and holder.state == WORKING:
                return self._at_hand
        return None

    def let_go(self) -> None:
        """Whatever ends the worker, and whenever: others get its shard at once, if that can still be written."""
        if self._at_hand is not None:
            with suppress(OSError, InputError):
                self._at_hand.release()

    @property
    def _period_s(self) -> float:
        return self.job.rules.lease_s / leases.BEATS

    def _holder(self, standing: Standing) -> Holder:
        """What the next lease of a shard says: counts go on from the one before."""
        mine, before = Holder(self.worker, host()), standing.holder
        if before is not None:
            mine = replace(mine, failures=before.failures, losses=before.losses, reason=before.reason)
        if standing.state != STALE:
            return mine
        losses, who = mine.losses + 1, before.worker if before else "a worker"
        state = FAILED if losses >= self.job.rules.losses else WORKING
        return replace(mine, losses=losses, state=state, reason=f"{who}: was lost while at work on it")

    def finish(self, lease: Lease, write: Callable[[Path], object]) -> bool:
        """Keep the result of a shard, unless one is there: whether it is this one.

        Args:
            lease: of the shard.
            write: fills the folder it is given.

        Raises:
            InputError: the storage is full, or cannot be written.
        """

        def fill(draft: Path) -> None:
            write(draft)
            facts = {"job": self.job.digest, "shard": lease.shard, "worker": self.worker, "host": host()}
            write_json(draft / FACTS, {**facts, "seconds": lease.seconds, "files": digests(draft)})

        return put_first(self.result(lease.shard), fill, lease.folder / "result")

    def result(self, shard: int) -> Path:
        """Return the folder of a shard's result."""
        return self._results / f"{shard:06}"

    def _read_results(self) -> None:
        for path in sorted(self._results.iterdir()):
            if path.name.isdecimal() and int(path.name) not in self.results:
                facts = read_facts(path / FACTS, f"delete {path}, and work on the job again")
                if facts.get("job") != self.job.digest or facts.get("shard") != int(path.name):
                    raise InputError(
                        f"{path} holds shard {facts.get('shard')} of job {facts.get('job')}, and this is "
                        f"{self.job.folder}, job {self.job.digest}; move it away"
                    )
                self.results[int(path.name)] = facts

    def checked(self, shard: int) -> Path:
        """Return the folder of a finished shard's result, its files compared with what was written.

        Raises:
            InputError: one is damaged.
        """
        path = self.result(shard)
        require_digests(path, self.results[shard]["files"], f"delete {path}, and work on the job again")
        return path

    def retry(self) -> list[int]:
        """Let shards that have failed be tried again; return them."""
        again = [standing for standing in self.look() if standing.state == FAILED]
        free = Holder(self.worker, host(), RELEASED)
        return [one.shard for one in again if leases.take(self._leases, one.shard, one.lease + 1, free)]


def _failures(standing: Standing) -> int:
    return standing.holder.failures if standing.holder else 0


def counted(standings: list[Standing]) -> Counter[str]:
    """How many shards stand how; a stale one counts as free."""
    return Counter(FREE if standing.state == STALE else standing.state for standing in standings)


def ended(standings: list[Standing]) -> bool:
    """Whether every shard is done or has failed: nothing is left for anybody."""
    return counted(standings).keys() <= {DONE, FAILED}
