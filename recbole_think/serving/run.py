"""A finished run as serving sees it: its catalogue, what is known of everybody, and who may answer.

n items.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from recbole_think.artifacts import read_json
from recbole_think.catalog import family
from recbole_think.corpus.histories import Histories
from recbole_think.errors import InputError
from recbole_think.itemic.codes import Codes
from recbole_think.loading import LoadedRun, load
from recbole_think.options import check

SPLITS = ("all", "test", "valid")
FOLDER = "serving"  # within the run folder, where nothing else is said


@dataclass(frozen=True)
class Catalogue:
    """The items that can be named."""

    names: list[str]  # raw id of item r + 1
    titles: list[str]
    codes: Codes
    _below: dict[int, dict[tuple[int, ...], int]] = field(default_factory=dict, init=False, repr=False)  # by depth

    @cached_property
    def number(self) -> dict[str, int]:
        """RecBole id by raw id."""
        return {name: row + 1 for row, name in enumerate(self.names)}

    @cached_property
    def digest(self) -> str:
        """Digest of raw ids and their codes: who has another one speaks of other items by the same codes."""
        found = hashlib.sha256("\n".join(self.names).encode())
        found.update(np.ascontiguousarray(self.codes.table).tobytes())
        return found.hexdigest()[:16]

    def left(self, prefixes: Tensor, masked: np.ndarray) -> int:
        """How many items begin with one of the prefixes int64 [p, d], each once, and are not masked (RecBole ids)."""
        depth = prefixes.shape[1]
        if depth not in self._below:
            codes, counts = np.unique(self.codes.table[:, :depth], axis=0, return_counts=True)
            self._below[depth] = dict(zip(map(tuple, codes.tolist()), counts.tolist(), strict=True))
        wanted = {tuple(codes) for codes in prefixes.tolist()}
        gone = sum(tuple(codes) in wanted for codes in self.codes.table[masked - 1, :depth].tolist())
        return sum(self._below[depth].get(codes, 0) for codes in wanted) - gone

    def known(self, items: Sequence[str]) -> np.ndarray:
        """RecBole ids of those that are in the catalogue: int64, in order."""
        return np.array([self.number[item] for item in items if item in self.number], dtype=np.int64)


class ServedRun:
    """A finished run of OneRecThink, ready to be served.

    Attributes:
        run: as ``load`` gives it.
        model: with the weights that were evaluated.
        catalogue: its items.
        histories: of all users, as far as ``split`` goes.
        masked: whether lists leave out what a history holds, where a request does not say.
    """

    def __init__(self, folder: Path, split: str):
        """Load a run.

        Args:
            folder: of the run.
            split: how far histories of the data set go: all, test (all but the last event), valid (all but two).

        Raises:
            InputError: as ``load``; or a run of a model that names no items by codes of a language model.
        """
        check(split in SPLITS, f"--split must be one of {', '.join(SPLITS)}, got {split!r}")
        _require_ours(folder)
        self.run: LoadedRun = load(folder)
        self.model: Any = self.run.model
        self.folder, self.split = folder, split
        self.catalogue = Catalogue(self.run.names[1:], self.run.titles[1:], self.model.codes)
        self.histories: Histories = self.run.histories_until(split)
        self.masked = bool(self.run.config["mask_history"])
        dataset = self.run.dataset
        self.users = {str(name): user for user, name in enumerate(dataset.field2id_token[dataset.uid_field]) if user}

    def history(self, user: str) -> np.ndarray:
        """What the data set holds of a user: int64, RecBole ids, oldest first; nothing of somebody it does not know."""
        number = self.users.get(user)
        return self.histories.items[:0] if number is None else self.histories.of(number)

    def popular(self) -> np.ndarray:
        """RecBole ids of all items, those most often met in training first: int64 [n]."""
        counts = np.bincount(self.model.histories.items, minlength=len(self.catalogue.names) + 1)[1:]
        return np.argsort(-counts, kind="stable") + 1


def _require_ours(folder: Path) -> None:
    """Refuse a run of another model before anything of it is loaded: weights of RecBole's models are pickles."""
    config = folder / "config.json"
    name = read_json(config).get("model", "") if config.is_file() else ""
    if name and family(str(name)) != "OneRecThink":
        raise InputError(f"{folder} is a run of {name}: serving takes OneRecThink")


def require_direct(served: ServedRun) -> None:
    """Refuse a run whose model has not learnt to answer without a thought.

    Raises:
        InputError: it has not.
    """
    stages, activation = served.run.config["stages"], served.model.options["activation"]
    if "recommendation" in stages or ("activation" in stages and activation.direct):
        return
    raise InputError(
        f"{served.folder} has no direct model: its stages {list(stages)} teach no answer without a thought; train with "
        f"stage recommendation among --stages, or serve another run with the same codes"
    )


def default_store(folder: Path) -> str:
    """Where thoughts and events are kept if nothing is said: a SQLite file in the run folder."""
    return f"sqlite:///{folder / FOLDER / 'store.sqlite3'}"
