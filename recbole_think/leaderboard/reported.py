"""Numbers others published: a table of their own, never among the rows made here (``baselines/reported.csv``)."""

import csv
from pathlib import Path

from recbole_think.paths import baselines_dir

COLUMNS = ("model", "recall@5", "recall@10", "ndcg@5", "ndcg@10", "history_masked", "source")


def reported(dataset: str, path: Path | None = None) -> list[dict[str, str]]:
    """Published rows of a data set, in the order of the file.

    Args:
        dataset: its name.
        path: CSV; None = the committed one.
    """
    path = path or baselines_dir() / "reported.csv"
    if not path.is_file():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return [{name: row[name] for name in COLUMNS} for row in csv.DictReader(file) if row["dataset"] == dataset]
