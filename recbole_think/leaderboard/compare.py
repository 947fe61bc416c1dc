"""Two rows of a leaderboard, or two runs, user by user: is the difference more than chance, how large, whose is it?"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from recbole_think.artifacts import read_json
from recbole_think.errors import InputError
from recbole_think.leaderboard.ranks import Users, read_ranks, read_run, read_users
from recbole_think.leaderboard.rows import read_lines, results_path
from recbole_think.paired import bootstrap_p, interval, of_ranks, quarter_of
from recbole_think.wording import spoken

K = 10


@dataclass(frozen=True)
class Side:
    """One of the two."""

    name: str
    metrics: dict[str, np.ndarray]  # of each user, mean over seeds: float64 [U]
    about: Users
    data: str  # fingerprint


def read_side(name: str, board: str, masked: bool) -> Side:
    """Read a row of a leaderboard, or a run folder.

    Args:
        name: of the row, or a path.
        board: name of the leaderboard.
        masked: which masking.

    Raises:
        InputError: there is neither.
    """
    folder = Path(name)
    if (folder / "metrics.json").is_file():
        return _run(folder, masked)
    path = results_path(board)
    lines = [line for line in read_lines(path) if line["mask_history"] == str(masked)]
    own = [line for line in lines if line["row"] == name]
    if not own:
        rows = ", ".join(dict.fromkeys(line["row"] for line in lines)) or "none"
        raise InputError(f"{name!r} is neither the folder of a finished run nor a row of {path}; rows there: {rows}")
    kept = path.with_suffix("")
    of_seeds = [of_ranks(read_ranks(kept, name, line["seed"], masked), (K,)) for line in own]
    means = {metric: np.mean([of[metric] for of in of_seeds], axis=0) for metric in of_seeds[0]}
    return Side(name, means, read_users(kept), own[0]["data_fingerprint"])


def _run(folder: Path, masked: bool) -> Side:
    facts, table = read_json(folder / "metrics.json"), read_run(folder / "ranks.tsv")
    column = "rank" if facts["mask_history"] == masked else "rank_other_masking"
    about = Users(table["history_length"].to_numpy(), table["target_count"].to_numpy())
    return Side(str(folder), of_ranks(table[column].to_numpy(), (K,)), about, facts["data_fingerprint"])


def compare(one: Side, other: Side) -> str:
    """Say in a table what ``one`` has over ``other``.

    Raises:
        InputError: they were tested on different data.
    """
    if one.data != other.data:
        raise InputError(
            f"{one.name} was tested on split {one.data}, {other.name} on {other.data}: their users are not the same"
        )
    lines = [f"{one.name} against {other.name}, {len(one.about.history_length):,} users", ""]
    lines.append(f"{'':<12}{'first':>9}{'second':>9}{'gain':>9}   {'95 % of the gain':<20}{'p':>8}{'effect size':>13}")
    for metric in (f"ndcg@{K}", f"recall@{K}", f"mrr@{K}"):
        mine, theirs = one.metrics[metric], other.metrics[metric]
        gain = mine - theirs
        low, high = interval(gain, seed=0)
        lines.append(
            f"{spoken(metric):<12}{mine.mean():>9.4f}{theirs.mean():>9.4f}{gain.mean():>+9.4f}   "
            f"{f'{low:+.4f} to {high:+.4f}':<20}{bootstrap_p(mine, theirs, 0):>8.4f}{_effect(gain):>+13.3f}"
        )
    gain = one.metrics[f"ndcg@{K}"] - other.metrics[f"ndcg@{K}"]
    better, worse = int((gain > 0).sum()), int((gain < 0).sum())
    lines += ["", f"better for {better:,} users, worse for {worse:,}, the same for {len(gain) - better - worse:,}"]
    for name, values in (("events before", one.about.history_length), ("target in training", one.about.target_count)):
        lines += ["", f"NDCG@{K} gain by {name}", *_quarters(gain, values)]
    return "\n".join([*lines, "", "p: paired bootstrap over users, two-sided; effect size: mean gain over its spread"])


def _effect(gain: np.ndarray) -> float:
    """Cohen's d of paired values."""
    spread = float(gain.std(ddof=1)) if len(gain) > 1 else 0.0
    return float(gain.mean()) / spread if spread else 0.0


def _quarters(gain: np.ndarray, values: np.ndarray) -> Sequence[str]:
    place = quarter_of(values)
    lines = []
    for part in np.unique(place):
        some, kind = gain[place == part], values[place == part]
        error = float(some.std(ddof=1)) / math.sqrt(len(some)) if len(some) > 1 else math.nan
        lines.append(
            f"  {f'{kind.min():,} to {kind.max():,}':<16}{len(some):>8,} users{some.mean():>+10.4f} ± {error:.4f}"
        )
    return lines
