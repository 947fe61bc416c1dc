"""Who is at work on a shard: a chain of leases on shared storage, each put in place by whoever was first.

A shard's leases are numbered; the newest one counts, and nothing is ever deleted, so that no two can undo each other.
The holder renews its lease by counting (``beat``). Others judge by their own clock how long that count has stood still;
clocks of machines, and times of files, are never compared. Knows nothing of what a shard is.
"""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from uuid import uuid4

from recbole_think.artifacts import read_json, write_json
from recbole_think.cluster.storage import put_first
from recbole_think.errors import InputError

log = logging.getLogger(__name__)
NAME = "holder.json"
WORKING, RELEASED, FAILED = "working", "released", "failed"
BEATS = 5  # within the time after which a lease is stale


@dataclass(frozen=True)
class Holder:
    """What a lease says."""

    worker: str
    host: str
    state: str = WORKING
    beat: int = 0
    seconds: float = 0.0  # since the lease was taken, by the holder's own clock
    failures: int = 0  # of this shard so far
    losses: int = 0  # workers that were lost while at work on it
    reason: str = ""  # of the last failure or loss, after the name of the worker
    details: str = ""
    token: str = field(default_factory=lambda: uuid4().hex)  # whose lease it is, whatever names workers have


def place(folder: Path, shard: int, number: int) -> Path:
    """Return where a lease lies."""
    return folder / f"{shard:06}.{number:04}"


def newest(folder: Path) -> dict[int, int]:
    """Number of the newest lease of every shard that has one; the first is 1."""
    found: dict[int, int] = {}
    for path in folder.iterdir():
        shard, _, number = path.name.partition(".")
        if shard.isdecimal() and number.isdecimal():
            found[int(shard)] = max(found.get(int(shard), 0), int(number))
    return found


def read(folder: Path, shard: int, number: int) -> Holder | None:
    """What a lease says; None where that cannot be read now."""
    try:
        return Holder(**read_json(place(folder, shard, number) / NAME))
    except (OSError, InputError, TypeError):
        return None


def take(folder: Path, shard: int, number: int, holder: Holder) -> bool:
    """Put a lease in place: whether this was first to."""
    return put_first(place(folder, shard, number), lambda draft: write_json(draft / NAME, asdict(holder)))


class Lease:
    """A lease held by this process: renewed by a thread within ``with``.

    Attributes:
        shard: what it is of.
        folder: of this lease, where its holder may write.
        holder: what it says now.
    """

    def __init__(self, folder: Path, shard: int, number: int, holder: Holder, period_s: float,
                 clock: Callable[[], float] = time.monotonic):  # fmt: skip
        self.shard, self._number, self.holder = shard, number, holder
        self.folder, self._next = place(folder, shard, number), place(folder, shard, number + 1)
        self._period_s, self._clock, self._taken = period_s, clock, clock()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="lease", daemon=True)

    @property
    def seconds(self) -> float:
        """Since it was taken."""
        return round(self._clock() - self._taken, 3)

    @property
    def lost(self) -> bool:
        """Whether another worker has taken the shard over."""
        return self._next.exists()

    def __enter__(self) -> "Lease":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join()

    def _renew(self) -> None:
        while not self._ended.wait(self._period_s):
            if self.lost:
                log.warning("shard %d was taken over by another worker: this one was not heard of", self.shard)
                return
            self.beat()

    def beat(self) -> None:
        """Count once more; a count that cannot be written now is written the next time."""
        try:
            self._say(beat=self.holder.beat + 1)
        except (OSError, InputError) as why:
            log.warning("the lease of shard %d is not renewed: %s", self.shard, why)

    def release(self) -> None:
        """Let others have the shard at once, if this lease came into place and says that its holder is at work."""
        self.__exit__()
        found = read(self.folder.parent, self.shard, self._number)
        if found is not None and (found.token, found.state) == (self.holder.token, WORKING):
            self._say(state=RELEASED)

    def fail(self, reason: str, details: str) -> None:
        """Say that the shard cannot be computed here."""
        self.__exit__()
        said = f"{self.holder.worker}: {reason}"
        self._say(state=FAILED, failures=self.holder.failures + 1, reason=said, details=details)

    def _say(self, **news: object) -> None:
        self.holder = replace(self.holder, seconds=self.seconds, **news)  # type: ignore[arg-type]
        write_json(self.folder / NAME, asdict(self.holder))
