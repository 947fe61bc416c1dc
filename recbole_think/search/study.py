"""The trials: each a run in a process of its own, kept by Optuna in the folder, judged by validation alone.

A trial's run folder is named after its values, so that the same values are never computed twice and a trial that was
killed goes on where it was. The test split is never looked at. Optuna draws values by TPE (Bergstra et al. 2011).
"""

import json
import random
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

from recbole_think.artifacts import digest, read_json
from recbole_think.errors import InputError
from recbole_think.layers import flat
from recbole_think.leaderboard.running import LOOK_S, free
from recbole_think.search.space import Dimension

SAMPLERS = ("tpe", "random", "grid")
JOURNAL = "journal.log"  # Optuna's own record
CUT, AGAIN = "cut", "again"  # of a trial: interrupted; of a study: trials that were put into its queue again
HOPELESS = 3  # trials that fail before any has ended well


@dataclass(frozen=True)
class Search:
    """What is searched for, and how long."""

    model: str
    dataset: str
    space: Mapping[str, Dimension]
    folder: Path
    trials: int = 20
    sampler: str = "tpe"
    seed: int = 2020
    options: Mapping[str, Any] = field(default_factory=dict)  # of every trial
    words: Sequence[str] = ()  # more of every command: paths of this machine

    def __post_init__(self):
        if self.sampler not in SAMPLERS:
            raise InputError(f"sampler must be one of {', '.join(SAMPLERS)}, got {self.sampler!r}")
        for name, least in (("trials", 1), ("seed", 0)):
            if not isinstance(getattr(self, name), int) or getattr(self, name) < least:
                raise InputError(f"{name} must be a whole number of at least {least}, got {getattr(self, name)!r}")
        if not isinstance(self.options, Mapping):
            raise InputError(f"options must be key: value lines, got {self.options!r}")
        if self.sampler == "grid" and (open_ := [name for name, of in self.space.items() if of.kind != "choice"]):
            raise InputError(f"sampler: grid goes through lists of values, and {open_[0]} has a range; list its values")
        if both := set(self.space) & set(flat(self.options)):
            raise InputError(f"{min(both)} is both searched and set in options; drop one")

    @property
    def wanted(self) -> int:
        """Trials that are to end well: no more than a grid has."""
        return min(self.trials, len(self.grid)) if self.sampler == "grid" else self.trials

    @property
    def grid(self) -> list[dict[str, str]]:
        """Every combination of listed values, as Optuna keeps them, in an order drawn by seed."""
        combined = [
            dict(zip(self.space, texts, strict=True)) for texts in product(*(of.texts for of in self.space.values()))
        ]
        random.Random(self.seed).shuffle(combined)
        return combined

    def check(self) -> None:
        """Refuse options the model does not have before any trial runs.

        Raises:
            InputError: one is unknown, or cannot be used.
        """
        from recbole_think.config import ThinkConfig

        ThinkConfig(self.model, self.dataset, argv=self.command({name: of.first for name, of in self.space.items()}))

    def command(self, values: Mapping[str, Any]) -> list[str]:
        """Words of a trial's command line."""
        set_ = {**flat(self.options), **values}
        return [*(f"--{name}={json.dumps(value)}" for name, value in set_.items()), *self.words]

    def run_folder(self, values: Mapping[str, Any]) -> Path:
        """Where a trial is run: the same values, the same folder."""
        return self.folder / f"trial-{digest([self.model, self.dataset, flat(self.options), dict(values)])}"

    def identity(self) -> dict[str, Any]:
        """What a folder's trials have in common."""
        space = {name: [of.kind, *of.values] for name, of in self.space.items()}
        return {"model": self.model, "dataset": self.dataset, "space": space, "options": flat(self.options)}


def study_of(search: Search) -> Any:
    """Optuna's study of the folder, new or as it was; trials that were cut off stand first in its queue."""
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend
    from optuna.trial import TrialState

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    search.folder.mkdir(parents=True, exist_ok=True)
    storage = JournalStorage(JournalFileBackend(str(search.folder / JOURNAL)))
    study = optuna.create_study(storage=storage, study_name="search", direction="maximize", load_if_exists=True)
    again = study.user_attrs.get(AGAIN, [])
    for trial in study.trials:
        if trial.state == TrialState.RUNNING:
            study.tell(trial.number, state=TrialState.FAIL)
        elif not trial.user_attrs.get(CUT) or trial.number in again:
            continue
        if trial.params:
            study.enqueue_trial(trial.params)  # before any other
        again = [*again, trial.number]
    study.set_user_attr(AGAIN, again)
    if search.sampler == "grid":
        for values in search.grid:
            study.enqueue_trial(values, skip_if_exists=True)
    # of its own seed, or a search that goes on would draw again what it began with
    study.sampler = _sampler(search, search.seed + len(study.trials))
    return study


def _sampler(search: Search, seed: int) -> Any:
    from optuna import samplers

    return samplers.TPESampler(seed=seed) if search.sampler == "tpe" else samplers.RandomSampler(seed=seed)


def waiting(study: Any) -> int:
    """Trials of the queue."""
    from optuna.trial import TrialState

    return len(study.get_trials(states=[TrialState.WAITING]))


def finished(study: Any) -> list[Any]:
    """Trials that have ended well."""
    from optuna.trial import TrialState

    return study.get_trials(states=[TrialState.COMPLETE])


def scored(search: Search, trial: Any) -> float:
    """Run a trial; its best score on validation, bigger is better.

    Raises:
        TrialError: the run ended with an error.
    """
    values = {name: of.drawn(name, trial) for name, of in search.space.items()}
    folder = search.run_folder(values)
    begin = time.monotonic()
    command = [sys.executable, "-m", "recbole_think", f"--model={search.model}", f"--dataset={search.dataset}",
               *search.command(values), f"--run_folder={folder}", "--show_progress=false"]  # fmt: skip
    trial.set_user_attr("folder", folder.name)
    while not free(folder):  # a search that was killed outright leaves its trial at work
        time.sleep(LOOK_S)
    with folder.with_suffix(".log").open("a", encoding="utf-8") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, text=True)
        try:
            code = process.wait()
        except BaseException:
            trial.set_user_attr(CUT, True)
            process.terminate()
            process.wait()
            raise
    trial.set_user_attr("seconds", round(time.monotonic() - begin, 1))
    if code or not (folder / "metrics.json").is_file():
        reason = _last_line(folder.with_suffix(".log"))
        trial.set_user_attr("reason", reason)
        raise TrialError(reason)
    return _score(folder)


class TrialError(Exception):
    """The run of a trial ended with an error; the search goes on."""


def _score(folder: Path) -> float:
    metrics, config = read_json(folder / "metrics.json"), read_json(folder / "config.json")
    value = float(metrics["valid"][str(config["valid_metric"]).lower()])
    return value if config.get("valid_metric_bigger", True) else -value


def _last_line(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    told = [line for line in lines if line.startswith("error")]
    return (told or lines or ["no word"])[-1]
