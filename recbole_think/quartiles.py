"""Whom a model serves well: ``ranks.tsv`` in, accuracy by quarter of the test users out.

Users are split by how long their history is, and by how often their target occurs in training. Knows nothing of charts.
"""

import csv
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from recbole_think.paired import quarter_of

KINDS = ("history_length", "target_count")
CLOSE = 1e-4  # metrics are rounded to six decimals


@dataclass(frozen=True)
class Group:
    """One quarter of the test users (more or less: equal values stay together)."""

    low: int
    high: int
    users: int
    recall: tuple[float, float]  # mean and standard error at k
    ndcg: tuple[float, float]


def by_quarter(path: Path, kind: str, k: int, recall: float | None) -> list[Group]:
    """Return accuracy by quarter, lowest first.

    Args:
        path: a ``ranks.tsv``.
        kind: one of ``KINDS``.
        k: length of list that counts.
        recall: recall@k over all users, to tell whether there is one target per user, as the ranks alone suppose.

    Returns:
        Nothing where the file is missing or tells no such thing, or where users have several targets.
    """
    if not path.is_file() or recall is None:
        return []
    ranks = pd.read_csv(path, sep="\t", quoting=csv.QUOTE_NONE, dtype={"user_id": str}, keep_default_na=False)
    if kind not in ranks:
        return []
    found = (ranks["rank"] > 0) & (ranks["rank"] <= k)
    if abs(found.mean() - recall) > CLOSE:
        return []
    gain = np.where(found, 1 / np.log2(ranks["rank"].clip(lower=1) + 1), 0.0)
    table = pd.DataFrame({"value": ranks[kind], "recall": found.astype(float), "ndcg": gain})
    return [_group(part) for _, part in table.groupby(quarter_of(table["value"].to_numpy()))]


def _group(part: pd.DataFrame) -> Group:
    values = part["value"]
    return Group(int(values.min()), int(values.max()), len(part), _mean(part["recall"]), _mean(part["ndcg"]))


def _mean(values: pd.Series) -> tuple[float, float]:
    spread = float(values.std(ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return float(values.mean()), spread
