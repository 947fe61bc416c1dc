"""The job folder: what is to be computed, written once before any worker starts, and refused where it is another job's.

    facts.json   the task, what its results depend on, the number of shards, how leases are kept
    leases/      who is or was at work on what        results/   one folder per finished shard
    logs/        one file per worker                  further files the task prepared

Knows nothing of tasks.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from recbole_think.artifacts import differing, digest, write_json
from recbole_think.cluster.storage import FACTS, digests, put_first, read_facts, require_digests
from recbole_think.errors import InputError
from recbole_think.options import check

FOLDERS = ("leases", "results", "logs")


@dataclass(frozen=True)
class Rules:
    """How shards are shared out."""

    lease_s: float = 120.0  # a lease not renewed for so long is taken over; NFS clients may see a file 60 s late
    tries: int = 3  # a shard that fails so often is left alone
    losses: int = 10  # so is one at which so many workers were lost

    def __post_init__(self):
        check(self.lease_s > 0, f"--lease_s must be positive, got {self.lease_s}")
        for name in ("tries", "losses"):
            check(getattr(self, name) >= 1, f"--{name} must be at least 1, got {getattr(self, name)}")


@dataclass(frozen=True)
class Job:
    """A job as its folder has it."""

    folder: Path
    digest: str  # of all its facts
    facts: Mapping[str, Any]

    @property
    def shards(self) -> int:
        """How many it has."""
        return self.facts["shards"]

    @property
    def rules(self) -> Rules:
        """How its shards are shared out."""
        return Rules(**self.facts["rules"])


def write_job(
    folder: Path, facts: Mapping[str, Any], rules: Rules, prepare: Callable[[Path], object] = lambda draft: None
) -> tuple[Job, bool]:
    """Write a job, or find that it is there.

    Args:
        folder: of the job.
        facts: all that its results depend on; ``shards`` is their number.
        rules: how they are shared out.
        prepare: writes the files that every worker needs besides.

    Returns:
        The job, and whether it was written just now.

    Raises:
        InputError: the folder holds something else, or cannot be written.
    """
    folder, wanted = folder.expanduser().resolve(), {**facts, "rules": asdict(rules)}
    check(wanted["shards"] >= 1, f"{folder}: there is nothing to compute")
    if (folder / FACTS).is_file():
        return _same_job(folder, wanted), False
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise InputError(f"{folder} is no job folder (it has no {FACTS}) and is not empty; choose another")

    def fill(draft: Path) -> None:
        prepare(draft)
        whole = {**wanted, "files": digests(draft)}
        for name in FOLDERS:
            (draft / name).mkdir()
        write_json(draft / FACTS, {"job": digest(whole, 16), **whole})

    mine = put_first(folder, fill)
    return _same_job(folder, wanted), mine


def _same_job(folder: Path, wanted: Mapping[str, Any]) -> Job:
    job = read_job(folder)
    for key, value in differing(job.facts, wanted).items():
        raise InputError(
            f"{folder} holds another job: {key} is {_short(job.facts.get(key))} there and {_short(value)} here; "
            f"choose another folder"
        )
    return job


def _short(value: Any, longest: int = 300) -> str:
    text = repr(value)
    return text if len(text) <= longest else f"{text[:longest]}..."


def read_job(folder: Path) -> Job:
    """Read a job.

    Raises:
        InputError: there is none, or it is not what was written.
    """
    folder = folder.expanduser().resolve()
    if not (folder / FACTS).is_file():
        raise InputError(f"{folder} is no job folder: it has no {FACTS}; plan the job first")
    remedy = "plan the job again, in another folder"
    facts = read_facts(folder / FACTS, remedy)
    named = facts.pop("job", None)
    if named != digest(facts, 16):
        raise InputError(f"{folder / FACTS} is not what was written there; {remedy}")
    require_digests(folder, facts["files"], remedy)
    return Job(folder, named, facts)
