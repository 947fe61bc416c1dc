"""The rank of every test user's target, kept beside the rows of a leaderboard, so that rows can be compared in pairs.

``<leaderboard>/<row>-<seed>.safetensors`` holds ranks, ``<leaderboard>/users.safetensors`` what all rows share: how
long each user's history is, and how often the target occurs in training. Users stand in the order of their raw ids,
which are not kept: a leaderboard may be published where its data may not. U users.
"""

import csv
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from recbole_think.artifacts import load_tensors, save_tensors
from recbole_think.errors import InputError

USERS = "users"
ABOUT = ("history_length", "target_count")


@dataclass(frozen=True)
class Users:
    """What is known of the test users, whatever the model: int64 [U] each."""

    history_length: np.ndarray  # events before the target
    target_count: np.ndarray  # times the target occurs in training


def keep_ranks(folder: Path, row: str, metrics: dict[str, Any], ranks: Path) -> None:
    """Keep the ranks of a run.

    Args:
        folder: of the leaderboard's ranks.
        row: its name.
        metrics: content of ``metrics.json``.
        ranks: its ``ranks.tsv``.
    """
    table = read_run(ranks)
    masked, free = ("rank", "rank_other_masking") if metrics["mask_history"] else ("rank_other_masking", "rank")
    import torch

    found = {"masked": table[masked], "free": table[free]}
    save_tensors(
        _path(folder, row, metrics["seed"]),
        {name: torch.from_numpy(values.to_numpy().astype(np.int16)) for name, values in found.items()},
    )
    about = {name: torch.from_numpy(table[name].to_numpy().astype(np.int32)) for name in ABOUT}
    save_tensors(folder / f"{USERS}.safetensors", about)


def read_run(path: Path) -> pd.DataFrame:
    """A run's ``ranks.tsv``, users in the order of their raw ids.

    Raises:
        InputError: the file is missing.
    """
    if not path.is_file():
        raise InputError(f"{path} is missing: not the folder of a finished run")
    table = pd.read_csv(path, sep="\t", quoting=csv.QUOTE_NONE, dtype={"user_id": str}, keep_default_na=False)
    return table.sort_values("user_id", kind="stable", ignore_index=True)


def read_ranks(folder: Path, row: str, seed: Any, masked: bool) -> np.ndarray:
    """Ranks of a row under one masking, 0 = not in the list: int64 [U].

    Raises:
        InputError: none were kept.
    """
    path = _path(folder, row, seed)
    if not path.is_file():
        raise InputError(f"{path} is missing: no ranks were kept for row {row!r}, seed {seed}")
    return load_tensors(path)["masked" if masked else "free"].numpy().astype(np.int64)


def read_users(folder: Path) -> Users:
    """What is known of the test users of a leaderboard."""
    found = load_tensors(folder / f"{USERS}.safetensors")
    return Users(*(found[name].numpy().astype(np.int64) for name in ABOUT))


def file_name(row: str, seed: Any) -> str:
    """What files of a row and seed are called."""
    return f"{re.sub(r'[^A-Za-z0-9]+', '-', row).strip('-')}-{seed}"


def _path(folder: Path, row: str, seed: Any) -> Path:
    return folder / f"{file_name(row, seed)}.safetensors"
