"""A leaderboard as its YAML describes it: data set, rows, seeds, and the command that makes each of them.

    title: Amazon Beauty 2014, 5-core
    dataset: beauty
    seeds: [2020]                     # of every row that names none
    options: {topk: [5, 10, 20]}      # of every row
    rows:
      SASRec-CE:                      # the row's name
        model: SASRecAll
        seeds: [2020, 2021, 2022]
        minutes: 30                   # expected, for the time left; `--plan` compares it with what was measured
        stages_from: OneRecThink      # take finished stages of this row's run, where they are the very same
        runs_of:                      # options that take run folders: those of these rows, made first; of the row's
          distillation.teachers: [SASRec-CE, "SASRec-CE, seed 2021"]  # own seed or else of their first
        options: {epochs: 60}
      OneRecThink; its twin: {twin_of: OneRecThink, minutes: 5}  # the same without a thought, as many candidates
    quick:                            # what --quick does instead
      options: {topk: [5, 10]}        # laid over those above
      rows:                           # the only rows, each with options laid over its own
        SASRec-CE: {epochs: 3}

Knows nothing of processes and results.
"""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml

from recbole_think import catalog
from recbole_think.artifacts import digest
from recbole_think.errors import InputError
from recbole_think.layers import flat
from recbole_think.leaderboard import twins
from recbole_think.leaderboard.ranks import file_name

RUN = "run_recbole_think.py"
BOARD_KEYS = {"title", "dataset", "seeds", "options", "rows", "quick"}
ROW_KEYS = {"model", "seeds", "minutes", "stages_from", "runs_of", "options"}
SEED = ", seed "  # between a row and the seed of one of its runs
QUICK_KEYS = {"options", "rows"}
MINUTES = 10.0  # expected of a row that does not say


@dataclass(frozen=True, eq=False)
class Job:
    """One row with one seed: a process of its own."""

    row: str
    model: str
    dataset: str
    seed: int
    options: Mapping[str, Any]  # by dotted key
    minutes: float
    stages_from: str | None = None  # a row
    runs_of: Mapping[str, Sequence[tuple[str, int]]] = field(default_factory=dict)  # rows and seeds, by dotted key

    @property
    def name(self) -> str:
        """What its run folder and log are called: a row whose options change begins a folder of its own."""
        return f"{file_name(self.row, self.seed)}-{digest(self.command, 6)}"

    @property
    def command(self) -> str:
        """The command that makes the row, as a person would type it, without paths of one machine.

        Run folders of other rows stand in it by name.
        """
        names = {key: [f"<run of {row}{SEED}{seed}>" for row, seed in runs] for key, runs in self.runs_of.items()}
        return " ".join(["python", RUN, *map(shlex.quote, self.words(names))])

    def words(self, runs: Mapping[str, list[str]]) -> list[str]:
        """Options of the command, given what stands for the runs of other rows."""
        words = [f"--model={self.model}", f"--dataset={self.dataset}", f"--seed={self.seed}"]
        return words + [f"--{key}={_word(value)}" for key, value in {**self.options, **runs}.items()]


@dataclass(frozen=True)
class Board:
    """A leaderboard."""

    name: str  # of its results
    title: str
    dataset: str
    jobs: tuple[Job, ...]
    quick: bool

    @property
    def rows(self) -> list[str]:
        """Names of the rows, as the YAML orders them."""
        return list(dict.fromkeys(job.row for job in self.jobs))


def read_board(path: Path, quick: bool = False) -> Board:
    """Read a leaderboard's YAML.

    Args:
        path: ``<name>.yaml``; results are called like it.
        quick: the quick variant, which has results of its own.

    Raises:
        InputError: it is not one, with what is wrong and where.
    """
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as why:
        raise InputError(f"{path} cannot be read: {why}") from why
    except yaml.YAMLError as why:
        raise InputError(f"{path} is not YAML: {' '.join(str(why).split())}") from why
    _require_keys(path, "the board", found, BOARD_KEYS, {"dataset", "rows"})
    shared, rows = found.get("options") or {}, found["rows"]
    over: Mapping[str, Any] = {}
    if quick:
        fast = found.get("quick")
        if not fast:
            raise InputError(f"{path} has no block quick: it has no quick variant")
        _require_keys(path, "quick", fast, QUICK_KEYS, {"rows"})
        shared, over = {**shared, **(fast.get("options") or {})}, fast["rows"]
        rows = {name: _known(path, "quick", name, rows) for name in over}
    rows = {name: _row(path, str(name), row, found["rows"], shared, over) for name, row in rows.items()}
    jobs = [job for name, row in rows.items() for job in _jobs(path, found, str(name), row, shared, over.get(name))]
    _require_distinct(path, jobs)
    jobs = [replace(job, runs_of=_runs(path, job, rows[job.row].get("runs_of") or {}, jobs)) for job in jobs]
    title = str(found.get("title") or found["dataset"])
    return Board(f"{path.stem}-quick" if quick else path.stem, title, str(found["dataset"]), tuple(jobs), quick)


def _row(path: Path, name: str, row: Any, rows: Mapping, shared: Mapping, over: Mapping) -> Any:
    """A row as it stands; a twin is written out, of its row as the variant has it."""
    where = f"row {name!r}"
    if not isinstance(row, Mapping) or "twin_of" not in row:
        return row
    _require_keys(path, where, row, twins.KEYS, set())
    of = _known(path, f"{where}, twin_of", row["twin_of"], rows)
    _require_keys(path, f"row {row['twin_of']!r}", of, ROW_KEYS, {"model"})
    changed = {**flat(of.get("options") or {}), **flat(over.get(row["twin_of"]) or {})} if over else of.get("options")
    return twins.written_out(f"{path}, {where}", row, {**of, "options": changed}, shared)


def _jobs(path: Path, board: Mapping, name: str, row: Any, shared: Mapping, over: Mapping | None) -> list[Job]:
    _require_keys(path, f"row {name!r}", row, ROW_KEYS, {"model"})
    if "," in name:
        raise InputError(f"{path}, row {name!r}: --rows separates names by commas, so they may hold none")
    try:
        catalog.lookup(row["model"])
    except InputError as why:
        raise InputError(f"{path}, row {name!r}: {why}") from why
    seeds = row.get("seeds") or board.get("seeds") or [2020]
    if not isinstance(seeds, list) or not all(isinstance(seed, int) for seed in seeds):
        raise InputError(f"{path}, row {name!r}: seeds must be a list of whole numbers, got {seeds!r}")
    if over is not None:  # the quick variant asks whether it works, not how sure it is
        seeds = seeds[:1]
    below = row.get("stages_from")
    if below is not None:
        _known(path, f"row {name!r}, stages_from", below, board["rows"])
    options = {**flat(shared), **flat(row.get("options") or {}), **flat(over or {})}
    minutes = float(row.get("minutes") or MINUTES)
    return [Job(name, row["model"], str(board["dataset"]), seed, options, minutes, below) for seed in seeds]


def _runs(path: Path, job: Job, wanted: Any, jobs: Sequence[Job]) -> dict[str, list[tuple[str, int]]]:
    """Which run is meant by every name in a row's ``runs_of``."""
    where = f"row {job.row!r}, runs_of"
    by_option = flat(wanted) if isinstance(wanted, Mapping) else {}
    if not isinstance(wanted, Mapping) or not all(isinstance(names, list) for names in by_option.values()):
        raise InputError(f"{path}, {where} must be a block of lists of rows by option, got {wanted!r}")
    seeds: dict[str, list[int]] = {}
    for one in jobs:
        seeds.setdefault(one.row, []).append(one.seed)
    found: dict[str, list[tuple[str, int]]] = {}
    for key, names in by_option.items():
        for name in names:
            row, _, said = str(name).partition(SEED)
            of_row = _known(path, where, row, seeds)
            seed = said or str(job.seed if job.seed in of_row else of_row[0])
            if seed not in map(str, of_row):
                raise InputError(f"{path}, {where}: row {row!r} has no seed {seed} (it has {of_row})")
            if row == job.row:
                raise InputError(f"{path}, {where}: the row would have to be made before itself")
            found.setdefault(key, []).append((row, int(seed)))
    return found


def _known(path: Path, where: str, name: Any, rows: Mapping) -> Any:
    if name not in rows:
        near = get_close_matches(str(name), list(map(str, rows)), n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise InputError(f"{path}, {where}: there is no row {name!r}{hint}")
    return rows[name]


def _require_keys(path: Path, where: str, found: Any, known: set[str], needed: set[str]) -> None:
    if not isinstance(found, Mapping):
        raise InputError(f"{path}: {where} must be a block of keys ({', '.join(sorted(known))}), got {found!r}")
    for key in found:
        if key not in known:
            near = get_close_matches(str(key), known, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise InputError(f"{path}: {where} has an unknown key {key!r}{hint} Known: {', '.join(sorted(known))}")
    for key in sorted(needed - set(found)):
        raise InputError(f"{path}: {where} has no {key!r}")
    for key in ("options", "rows"):
        if key in found and not isinstance(found[key] or {}, Mapping):
            raise InputError(f"{path}: {key} of {where} must be a block, got {found[key]!r}")


def _require_distinct(path: Path, jobs: list[Job]) -> None:
    names: dict[str, Job] = {}
    for job in jobs:
        name = file_name(job.row, job.seed)
        other = names.setdefault(name, job)
        if other is not job:
            raise InputError(
                f"{path}: rows {other.row!r} and {job.row!r}, seed {job.seed}, would share the file name "
                f"{name!r}; give them names that differ in letters or digits, and each seed once"
            )


def _word(value: Any) -> str:
    if isinstance(value, list):
        return f"[{','.join(map(_word, value))}]"
    return "~" if value is None else str(value)
