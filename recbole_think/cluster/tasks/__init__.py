"""What shards are computed from: one file per task, each rebuilt on every worker from the job's options alone."""

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar, Protocol

from recbole_think.artifacts import differing, versions
from recbole_think.cluster.job import Job
from recbole_think.cluster.storage import digest_of
from recbole_think.errors import InputError
from recbole_think.options import near_hint, read_options

HOMES = {
    "rank": "recbole_think.cluster.tasks.rank:Rank",
    "think": "recbole_think.cluster.tasks.think:Think",
    "codes": "recbole_think.cluster.tasks.codes:CodesOfRows",
}


class Task(Protocol):
    """A task over the inputs its options name."""

    OPTIONS: ClassVar[type]
    shards: int

    def __init__(self, options: Any, folder: Path | None):
        """Read the inputs.

        Args:
            options: of ``OPTIONS``.
            folder: of the job, with what ``prepare`` wrote; None while the job is planned.
        """

    def use(self, engine: Mapping[str, Any]) -> None:
        """Say where the engine of this machine is, before anything is computed: what changes no result."""

    def made_from(self) -> dict[str, Any]:
        """Digests of all inputs."""

    def prepare(self, folder: Path) -> None:
        """Write what every worker needs besides the inputs, once, when the job is planned."""

    def compute(self, shard: int) -> Any:
        """Compute a shard."""

    def write(self, made: Any, folder: Path) -> None:
        """Write what was computed."""

    def join(self, results: list[Path], folder: Path) -> None:
        """Write all results as one, from the folders of the shards in their order."""


def planned(name: str, given: Mapping[str, Any]) -> tuple[Task, dict[str, Any]]:
    """Make a task, and the facts of a job of it.

    Args:
        name: of the task.
        given: its options.

    Raises:
        InputError: an unknown name or option, or inputs that cannot be used.
    """
    if name not in HOMES:
        raise InputError(f"--task must be one of {', '.join(HOMES)}, got {name!r}{near_hint(name, HOMES)}")
    kind = _class(name)
    task = kind(read_options(kind.OPTIONS, given, name), None)
    return task, {"task": name, "options": dict(given), "shards": task.shards, **_origin(task)}


def opened(job: Job) -> Task:
    """Make the task of a job on this machine.

    Raises:
        InputError: weights, data, code or libraries are not those of the plan.
    """
    if job.facts.get("task") not in HOMES:
        raise InputError(f"{job.folder} is a job of task {job.facts.get('task')!r}, which this version does not know")
    kind = _class(job.facts["task"])
    _require_same(job, {"code": code_digest(), "versions": versions()})  # before minutes of loading
    task = kind(read_options(kind.OPTIONS, job.facts["options"], job.facts["task"]), job.folder)
    _require_same(job, {"shards": task.shards, **_origin(task)})
    return task


def _class(name: str) -> Any:
    module, _, found = HOMES[name].partition(":")
    return getattr(import_module(module), found)


def _origin(task: Task) -> dict[str, Any]:
    return {"code": code_digest(), "versions": versions(), "made_from": task.made_from()}


def _require_same(job: Job, wanted: Mapping[str, Any]) -> None:
    for key, value in differing(job.facts, wanted).items():
        raise InputError(
            f"{job.folder} was planned with {key}={job.facts.get(key)!r}, this machine has {value!r}; workers need the "
            f"weights, data, code and libraries of the plan"
        )


def code_digest() -> str:
    """Digest of this package's source."""
    import hashlib

    found, root = hashlib.sha256(), Path(__file__).resolve().parents[2]
    for path in sorted(root.rglob("*.py")):
        found.update(f"{path.relative_to(root)}\t{digest_of(path)}\n".encode())
    return found.hexdigest()[:16]
