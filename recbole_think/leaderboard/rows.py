"""Rows of a leaderboard as they are committed: ``baselines/results/<name>.csv``, a line per row, seed and masking.

Rows of another split or tie rule are refused, never mixed in. Besides each line the rank of every test user's target is
kept (``ranks.py``), so that rows can be compared in pairs.
"""

import csv
import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from recbole_think.artifacts import read_json, write_text
from recbole_think.errors import InputError
from recbole_think.leaderboard.ranks import keep_ranks
from recbole_think.paths import results_dir
from recbole_think.wording import processor

COLUMNS = (
    "row", "model", "seed", "mask_history", "think", "recall@5", "recall@10", "ndcg@5", "ndcg@10", "se_ndcg@10",
    "seconds_train", "seconds_eval", "peak_memory_mib", "parameters", "train_tokens", "commit", "command", "versions",
    "hardware", "data_fingerprint", "tie_rule", "users", "illegal_rate", "collision_rate", "finished",
)  # fmt: skip
SAME = ("data_fingerprint", "tie_rule")  # what rows of one table share
ERROR = "se_"  # before the name of a metric: its standard error over users
Line = dict[str, Any]


def results_path(name: str) -> Path:
    """The CSV of a leaderboard."""
    return results_dir() / f"{name}.csv"


def read_lines(path: Path) -> list[dict[str, str]]:
    """Every line of a CSV of results, as text; none where there is no file."""
    if not path.is_file():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def committed_rows(name: str, mask_history: bool) -> list[Line]:
    """Read the rows of a leaderboard under one masking, with ``test`` and ``standard_error`` by metric."""
    return [_from_csv(line) for line in read_lines(results_path(name)) if line["mask_history"] == str(mask_history)]


def comparable_rows(metrics: Line, mask_history: bool) -> list[Line]:
    """Return the committed rows of other models on the very split of a run, under one masking, each once.

    Of several seeds the metrics and errors are means, and ``label`` says how many there were.

    Args:
        metrics: the content of the run's ``metrics.json``.
        mask_history: the masking asked for.
    """
    rows = committed_rows(metrics["dataset"], mask_history)
    same = [row for row in rows if row["data_fingerprint"] == metrics["data_fingerprint"]]
    names = dict.fromkeys(row["row"] for row in same if row["model"] != metrics["model"])
    return [_joined([row for row in same if row["row"] == name]) for name in names]


def _joined(seeds: list[Line]) -> Line:
    means = {
        part: {name: sum(row[part].get(name, math.nan) for row in seeds) / len(seeds) for name in seeds[0][part]}
        for part in ("test", "standard_error")
    }
    label = seeds[0]["row"] + (f", {len(seeds)} seeds" if len(seeds) > 1 else "")
    return {**seeds[0], **means, "label": label, "finished": max(row["finished"] for row in seeds)}


def _from_csv(line: dict[str, str]) -> Line:
    metrics = {name: float(value) for name, value in line.items() if _is_metric(name) and value}
    errors = {name.removeprefix(ERROR): float(value) for name, value in line.items() if _is_error(name) and value}
    facts = {name: value for name, value in line.items() if "@" not in name}
    return {**facts, "test": metrics, "standard_error": errors}


def _is_metric(name: str) -> bool:
    return "@" in name and not name.startswith((ERROR, "valid_"))


def _is_error(name: str) -> bool:
    return "@" in name and name.startswith(ERROR)


def add(run_folder: Path, row: str = "", command: str = "", results: Path | None = None) -> Path:
    """Put the row of a finished run into its leaderboard, one line per masking, and its ranks beside it.

    Lines of the same row and seed are replaced.

    Args:
        run_folder: of the run.
        row: what the row is called; empty = the model's name.
        command: that makes the row; empty = the run's own.
        results: CSV of the leaderboard; None = the data set's.

    Raises:
        InputError: the run is not finished, or on another split or tie rule than the rows that are there.
    """
    path = run_folder / "metrics.json"
    if not path.is_file():
        raise InputError(f"{run_folder} holds no metrics.json: the run is not finished")
    metrics = read_json(path)
    target = results or results_path(metrics["dataset"])
    told = {"row": row or metrics["model"], "command": command or metrics["command"]}
    new = [
        _to_csv(metrics, told, masked, "" if masked == metrics["mask_history"] else "_other_masking")
        for masked in (False, True)
    ]
    kept = [line for line in read_lines(target) if _key(line) != _key(new[0])]
    require_one_split(kept, new[0], target)
    keep_ranks(target.with_suffix(""), told["row"], metrics, run_folder / "ranks.tsv")
    write_lines(target, [*kept, *new])
    return target


def require_one_split(kept: Sequence[Line], new: Line, where: Path) -> None:
    """Refuse a row that was made from other events, or from events in another order, than those of the table.

    Raises:
        InputError: it was.
    """
    for line in kept:
        for name in SAME:
            if str(line[name]) != str(new[name]):
                raise InputError(
                    f"{where} holds rows with {name}={line[name]!r} (such as {line['row']!r}), {new['row']!r} has "
                    f"{new[name]!r}: rows of different data, splits or tie rules are never in one table; use another "
                    f"file, or make the others again"
                )


def write_lines(path: Path, lines: Sequence[Line]) -> None:
    """Write a CSV of results, whole or not at all, in the order of rows, seeds and maskings."""
    ranked = sorted(lines, key=lambda line: (*_key(line), str(line["mask_history"])))
    more = dict.fromkeys(name for line in ranked for name in line if name not in COLUMNS)
    text = io.StringIO()
    writer = csv.DictWriter(text, [*COLUMNS, *more], lineterminator="\n")
    writer.writeheader()
    writer.writerows(ranked)
    write_text(path, text.getvalue())


def _key(line: Line) -> tuple[str, str]:
    return str(line["row"]), str(line["seed"])


def _to_csv(metrics: Line, told: dict[str, str], masked: bool, suffix: str) -> Line:
    hardware, seconds, errors = metrics["hardware"], metrics["seconds"], metrics[f"standard_error{suffix}"]
    taken = [
        row["seconds"] for row in metrics.get("stages") or [] if row.get("skipped")
    ]  # in another run, or before a kill
    facts = {
        **told,
        "mask_history": str(masked),
        "think": str(bool(metrics.get("think"))),
        "seconds_train": round(seconds.get("fit", 0) + sum(taken)),
        "seconds_eval": round(seconds.get(f"evaluate_test{suffix}", 0), 1),
        "versions": " ".join(f"{package}={version}" for package, version in (metrics.get("versions") or {}).items()),
        "hardware": ", ".join([*hardware["gpus"], processor(hardware), f"{hardware['threads']} thread(s)"]),
        "collision_rate": (metrics.get("health") or {}).get("collisions_after"),
        "finished": metrics["finished"][:10],
    }
    given = {name: metrics.get(name) for name in COLUMNS if name not in facts and "@" not in name}
    chosen_by = {f"valid_{name}": value for name, value in (metrics.get("valid") or {}).items() if name == "ndcg@10"}
    return {
        **given, **facts, **metrics[f"test{suffix}"],
        **{f"{ERROR}{name}": round(value, 6) for name, value in errors.items()}, **chosen_by,
    }  # fmt: skip


def table(rows: Sequence[Line]) -> str:
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
