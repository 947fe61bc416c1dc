"""How the rows of a leaderboard stand: means over seeds and users, intervals, costs, and who is served by whom.

Reads the committed lines and ranks alone. U users, S seeds.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from recbole_think.leaderboard.ranks import Users, read_ranks, read_users
from recbole_think.leaderboard.rows import read_lines
from recbole_think.paired import interval, of_ranks, quarter_of

K = 10  # length of list that the board is about
SHOWN = ("recall@5", "recall@10", "ndcg@5", "ndcg@10")
METRIC = f"ndcg@{K}"


@dataclass(frozen=True)
class Standing:
    """One row under one masking."""

    row: str
    lines: list[dict[str, str]]  # of the CSV, one per seed
    users: dict[str, np.ndarray] = field(repr=False)  # metric of each user, mean over seeds: float64 [U]

    @property
    def model(self) -> str:
        """Name of the model."""
        return self.lines[0]["model"]

    @property
    def thinks(self) -> bool:
        """Whether lists are made after thinking."""
        return self.lines[0]["think"] == "True"

    @property
    def seeds(self) -> list[int]:
        """Seeds it was made with."""
        return [int(line["seed"]) for line in self.lines]

    @property
    def machine(self) -> str:
        """What it was made on: seconds of different machines do not compare."""
        return "; ".join(dict.fromkeys(line.get("hardware") or "not noted" for line in self.lines))

    def mean(self, metric: str) -> float:
        """Mean over users and seeds."""
        return float(self.users[metric].mean())

    @cached_property
    def intervals(self) -> dict[str, tuple[float, float]]:
        """95 % interval of every metric by the bootstrap over users."""
        return {name: interval(values, seed=0) for name, values in self.users.items()}

    def seed_error(self, metric: str) -> float | None:
        """Standard error over seeds; None of a single one."""
        values = [float(line[metric]) for line in self.lines if line.get(metric)]
        return float(np.std(values, ddof=1) / np.sqrt(len(values))) if len(values) > 1 else None

    def cost(self, name: str) -> float | None:
        """Mean over seeds of a column of numbers; None where a line has none."""
        values = [line.get(name) or "" for line in self.lines]
        return None if "" in values else float(np.mean([float(value) for value in values]))

    def by_quarter(self, of: np.ndarray) -> list[tuple[int, int, int, float, float]]:
        """NDCG by quarter of the users, lowest values first: (low, high, users, mean, standard error).

        Args:
            of: int64 [U], what users are divided by; equal values stay together.
        """
        place, values = quarter_of(of), self.users[METRIC]
        parts = [(of[place == part], values[place == part]) for part in np.unique(place)]
        return [
            (int(kind.min()), int(kind.max()), len(some), float(some.mean()), float(some.std() / np.sqrt(len(some))))
            for kind, some in parts
        ]


@dataclass(frozen=True)
class Standings:
    """All rows under one masking, best first."""

    masked: bool
    rows: list[Standing]
    about: Users | None

    def overlap(self) -> np.ndarray:
        """Of the users one row serves (target among the first K), the share the other serves too: [rows, rows]."""
        hits = np.stack([row.users[f"recall@{K}"] > 0 for row in self.rows]).astype(float)
        both = hits @ hits.T
        return both / np.maximum(both.diagonal()[:, None], 1)


def standings(path: Path, masked: bool, only: Sequence[str] = ()) -> Standings:
    """Read how rows stand.

    Args:
        path: the CSV of results.
        masked: which masking.
        only: names of the rows wanted; none = all.
    """
    found: dict[str, list[dict[str, Any]]] = {}
    for line in read_lines(path):
        if line["mask_history"] == str(masked) and (not only or line["row"] in only):
            found.setdefault(line["row"], []).append(line)
    folder = path.with_suffix("")
    rows = [Standing(row, lines, _users(folder, lines, masked)) for row, lines in found.items()]
    rows.sort(key=lambda row: row.mean(METRIC), reverse=True)
    return Standings(masked, rows, read_users(folder) if rows else None)


def _users(folder: Path, lines: list[dict[str, Any]], masked: bool) -> dict[str, np.ndarray]:
    of_seeds = [of_ranks(read_ranks(folder, line["row"], line["seed"], masked), (5, K)) for line in lines]
    return {name: np.mean([of[name] for of in of_seeds], axis=0) for name in of_seeds[0]}
