"""Rows of a leaderboard: the run just made, a live popularity row, and the committed, dated rows of its data set.

``python -m recbole_think.leaderboard add <run folder>`` copies a finished run's row into ``baselines/results/``.
"""

import csv
import io
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recbole_think.artifacts import read_json, write_text
from recbole_think.errors import InputError
from recbole_think.paths import results_dir

if TYPE_CHECKING:  # rows can be read without loading RecBole
    from recbole_think.config import ThinkConfig

FACTS = ("model", "seed", "mask_history", "finished", "commit", "command", "hardware", "seconds", "data_fingerprint")
# what decides the data and the evaluation, whatever the model
SHARED = {
    "data_path", "seed", "mask_history", "eval_args", "metrics", "topk", "valid_metric", "valid_metric_bigger",
    "benchmark_filename", "cache_dir", "show_progress", "metric_decimal_place", "reproducibility", "gpu_id", "use_gpu",
}  # fmt: skip


def shared_settings(config: "ThinkConfig") -> dict[str, Any]:
    """Return what the user set about data and evaluation, to give a second model the same; paths are absolute."""
    dataset_keys = set(config.parameters["Dataset"]) - {"MAX_ITEM_LIST_LENGTH"}
    given = {key: value for key, value in config.external_config_dict.items() if key in SHARED | dataset_keys}
    given["data_path"] = str(Path(config["data_path"]).parent)
    return {**given, "cache_dir": str(config["cache_dir"])} if config["cache_dir"] else given


def committed_rows(dataset: str, mask_history: bool) -> list[dict[str, Any]]:
    """Read the committed rows of a data set that were evaluated under the same masking."""
    path = results_dir() / f"{dataset}.csv"
    if not path.is_file():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["mask_history"] == str(mask_history)]
    return [_from_csv(row) for row in rows]


def comparable_rows(metrics: dict[str, Any], mask_history: bool) -> list[dict[str, Any]]:
    """Return the committed rows of other models on the very split of a run, under one masking.

    Args:
        metrics: the content of the run's ``metrics.json``.
        mask_history: the masking asked for.
    """
    rows = committed_rows(metrics["dataset"], mask_history)
    same = [row for row in rows if row["data_fingerprint"] == metrics["data_fingerprint"]]
    return [row for row in same if row["model"] != metrics["model"]]


def _from_csv(row: dict[str, str]) -> dict[str, Any]:
    metrics = {
        name: float(value) for name, value in row.items() if "@" in name and not name.startswith("se:") and value
    }
    errors = {name[3:]: float(value) for name, value in row.items() if name.startswith("se:") and value}
    return {**{name: row[name] for name in FACTS}, "test": metrics, "standard_error": errors}


def add(run_folder: Path) -> Path:
    """Put the row of a finished run into ``baselines/results/<dataset>.csv``, one line per masking.

    A row of the same model, seed and masking is replaced.

    Raises:
        InputError: the run is not finished.
    """
    path = run_folder / "metrics.json"
    if not path.is_file():
        raise InputError(f"{run_folder} holds no metrics.json: the run is not finished")
    metrics = read_json(path)
    new = [_to_csv(metrics, metrics["test"], metrics["standard_error"], metrics["mask_history"])]
    other = metrics["test_other_masking"], metrics["standard_error_other_masking"], not metrics["mask_history"]
    new.append(_to_csv(metrics, *other))
    target = results_dir() / f"{metrics['dataset']}.csv"
    kept = []
    if target.is_file():
        with target.open(encoding="utf-8", newline="") as file:
            kept = [row for row in csv.DictReader(file) if all(_key(row) != _key(fresh) for fresh in new)]
    rows = sorted([*kept, *new], key=_key)
    columns = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(target, text.getvalue())
    return target


def _key(row: dict) -> tuple[str, str, str]:
    return str(row["model"]), str(row["seed"]), str(row["mask_history"])


def _to_csv(metrics: dict, values: dict, errors: dict, masked: bool) -> dict[str, Any]:
    hardware = metrics["hardware"]
    facts = {
        **{name: metrics.get(name) for name in FACTS},
        "mask_history": str(masked),
        "finished": metrics["finished"][:10],
        "hardware": f"{hardware['cpu']}, {hardware['threads']} thread(s)",
        "seconds": round(sum(metrics["seconds"].values())),
    }
    return {**facts, **values, **{f"se:{name}": round(value, 6) for name, value in errors.items()}}


def table(rows: list[dict[str, Any]]) -> str:
    """Lay rows out as text, standard errors below the means.

    Args:
        rows: dicts with ``label``, ``test`` and ``standard_error``.
    """
    names = [name for name in rows[0]["test"] if any(name in row["test"] for row in rows)]
    width = max(len(row["label"]) for row in rows) + 2
    lines = [" " * width + "".join(f"{name:>11}" for name in names)]
    for row in rows:
        means = "".join(f"{row['test'].get(name, float('nan')):>11.4f}" for name in names)
        errors = "".join(f"{'± ' + format(row['standard_error'].get(name, float('nan')), '.4f'):>11}" for name in names)
        lines += [f"{row['label']:<{width}}{means}", f"{'':<{width}}{errors}"]
    return "\n".join(lines)


def main(argv: list[str]) -> int:
    """Run ``add <run folder>``."""
    if len(argv) != 2 or argv[0] != "add":
        sys.stderr.write("usage: python -m recbole_think.leaderboard add <run folder>\n")
        return 2
    try:
        sys.stdout.write(f"{add(Path(argv[1]))}\n")
    except InputError as why:
        sys.stderr.write(f"error: {why}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
