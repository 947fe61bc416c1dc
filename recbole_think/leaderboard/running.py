"""Make the rows of a leaderboard that are missing: each row and seed a process of its own, several side by side.

What is finished is in the results the moment it is, what is interrupted goes on where it was when the board is run
again (a run folder is found by its name and refuses a second process), and a row that fails is kept in mind with its
reason while the others go on. The processes of a board that is killed outright finish their rows; the next one waits.
"""

import fcntl
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from tqdm import tqdm

from recbole_think.artifacts import read_json, write_json
from recbole_think.errors import InputError
from recbole_think.leaderboard.board import Board, Job
from recbole_think.leaderboard.pace import Pace
from recbole_think.leaderboard.rows import add, read_lines

LOOK_S = 0.5  # between two looks at the processes
SHOW_S = 2  # between two states of the bar
FAILED = ".failed.json"
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@dataclass
class Running:
    """A job at work."""

    job: Job
    process: subprocess.Popen
    resumed: bool = False  # it was begun by an earlier board
    begun: float = field(default_factory=time.monotonic)

    @property
    def minutes(self) -> float:
        """Those it has taken."""
        return (time.monotonic() - self.begun) / 60

    def __str__(self) -> str:
        return f"{self.job.name} ({self.minutes:.0f} of {self.job.minutes:.0f} min)"


@dataclass(frozen=True)
class Runner:
    """Makes the rows of one leaderboard."""

    board: Board
    results: Path  # its CSV
    folder: Path  # of run folders and logs
    jobs: int = 1  # processes side by side
    words: Sequence[str] = ()  # more of every command: paths of this machine
    report: Callable[[], object] = lambda: None  # called whenever a row was added

    def missing(self, rows: Sequence[str] = ()) -> list[Job]:
        """Jobs without a line in the results that their command has made, of some rows or all."""
        made = {(line["row"], line["seed"], line["command"]) for line in read_lines(self.results)}
        wanted = [job for job in self.board.jobs if not rows or job.row in rows]
        return [job for job in wanted if (job.row, str(job.seed), job.command) not in made]

    def run(self, rows: Sequence[str] = ()) -> dict[Job, str]:
        """Make what is missing.

        Args:
            rows: names of those wanted; none = all.

        Returns:
            The reason, by job, of what failed.

        Raises:
            InputError: another process writes the same results.
        """
        with alone(self.results):
            waiting, going = self.missing(rows), list[Running]()
            failed: dict[Job, str] = {}
            total = sum(job.minutes for job in waiting)
            bar = "{desc} |{bar}| {percentage:3.0f} % of the minutes planned [{elapsed}<{remaining}]"
            pace = Pace()
            with tqdm(
                total=total, bar_format=bar, disable=not waiting, file=sys.stderr, smoothing=0, miniters=0,
                mininterval=SHOW_S,
            ) as shown:  # fmt: skip
                try:
                    while waiting or going:
                        self._start(waiting, going, failed)
                        time.sleep(LOOK_S)
                        for ended in [one for one in going if one.process.poll() is not None]:
                            going.remove(ended)
                            self._end(ended, failed, pace)
                        done = pace.done([(one.job.minutes, one.minutes) for one in going])
                        shown.set_description(", ".join(map(str, going)), refresh=False)
                        shown.update(sum(job.minutes for job in failed) + done - shown.n)
                finally:
                    stop(going)
        return failed

    def _start(self, waiting: list[Job], going: list[Running], failed: dict[Job, str]) -> None:
        """Start what may be: a row that leans on others waits for them, if they are to be made as well."""
        for job in list(waiting):
            if len(going) >= self.jobs:
                return
            needed = {(job.stages_from, job.seed), *(run for runs in job.runs_of.values() for run in runs)}
            if any((other.row, other.seed) in needed for other in [*waiting, *(one.job for one in going)]):
                continue
            if not free(self.folder / job.name):  # a process of an earlier board is at work on it
                continue
            waiting.remove(job)
            self.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / f"{job.name}{FAILED}").unlink(missing_ok=True)
            try:
                resumed = (self.folder / job.name).is_dir()
                going.append(Running(job, self._process(job), resumed))
            except InputError as why:
                self._failed(job, why, failed)

    def _folder(self, row: str | None, seed: int) -> Path | None:
        """Of the finished run of a row and seed, if it is here."""
        found = [self.folder / job.name for job in self.board.jobs if (job.row, job.seed) == (row, seed)]
        return next((folder for folder in found if (folder / "metrics.json").is_file()), None)

    def _required(self, key: str, row: str, seed: int) -> str:
        folder = self._folder(row, seed)
        if folder is None:
            raise InputError(
                f"{key} takes the run of row {row!r}, seed {seed}, which is not in {self.folder} (its results may be "
                f"here without it): take its lines out of {self.results}, so that it is made here"
            )
        return str(folder)

    def _process(self, job: Job) -> subprocess.Popen:
        runs = {key: [self._required(key, *run) for run in wanted] for key, wanted in job.runs_of.items()}
        words = [*job.words(runs), *self.words, f"--run_folder={self.folder / job.name}"]
        if below := self._folder(job.stages_from, job.seed):
            words.append(f"--stages_from={below}")
        with (self.folder / f"{job.name}.log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "recbole_think", *words], stdout=log, stderr=subprocess.STDOUT,
                env=environment(self.jobs), stdin=subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip

    def _end(self, ended: Running, failed: dict[Job, str], pace: Pace) -> None:
        """Add the row of a process that has ended, or keep why there is none."""
        job, log = ended.job, self.folder / f"{ended.job.name}.log"
        try:
            if ended.process.returncode:
                raise InputError(last_words(log) or f"ended with {ended.process.returncode}")
            add(self.folder / job.name, job.row, job.command, self.results)
            pace.end(job.minutes, ended.minutes, ended.resumed)
        except InputError as why:
            self._failed(job, why, failed)
        self.report()

    def _failed(self, job: Job, why: InputError, failed: dict[Job, str]) -> None:
        failed[job] = str(why)
        log = str(self.folder / f"{job.name}.log")
        write_json(self.folder / f"{job.name}{FAILED}", {"row": job.row, "reason": str(why), "log": log})


def environment(jobs: int) -> dict[str, str]:
    """Variables of a job's process: its share of the cores, unless the board was told how many threads to use."""
    given = dict(os.environ)
    if jobs == 1 or any(name in given for name in THREADS):  # one alone would be overruled by the others
        return given
    return {**given, **dict.fromkeys(THREADS, str(max(1, (os.cpu_count() or 1) // jobs)))}


def failures(folder: Path, jobs: Sequence[Job]) -> list[Mapping[str, str]]:
    """What failed last time, of some jobs: row, reason, log."""
    paths = [folder / f"{job.name}{FAILED}" for job in jobs]
    return [read_json(path) for path in paths if path.is_file()]


@contextmanager
def alone(results: Path) -> Iterator[None]:
    """Hold the lock of a leaderboard's, or a search's, results.

    Raises:
        InputError: another process holds it.
    """
    results.parent.mkdir(parents=True, exist_ok=True)
    with (results.parent / f".{results.stem}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as why:
            raise InputError(f"another process is writing {results}; wait until it has ended") from why
        yield


def free(run_folder: Path) -> bool:
    """Whether no process works in a run folder."""
    path = run_folder / ".lock"
    if not path.is_file():
        return True
    with path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


def last_words(log: Path) -> str:
    """The last line a process wrote: of ours, what was wrong."""
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").split("\n")]
    said = [line.rpartition("\r")[2] for line in lines if line]
    return said[-1][-500:] if said else ""


def stop(going: Sequence[Running]) -> None:
    """End processes; they go on from their last checkpoint when the board is run again."""
    for one in going:
        with suppress(ProcessLookupError):
            one.process.terminate()
    for one in going:
        one.process.wait()
