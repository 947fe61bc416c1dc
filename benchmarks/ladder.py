"""What every stage adds: recommendation only, + alignment, + activation, + enhancement, over seeds.

    python benchmarks/ladder.py [--seeds 2020 2021 2022] [--folder=runs/ladder] [--dataset=ml-100k] [--users=0]
        [--also="--backbone.layers=2 ..."] [--show]

A row goes on from the very weights of the row before, and a row that thinks is measured against its own twin without
on ``users`` test users (0 = all). ``enhancement.fresh`` is off for that reason: no event is withheld from the rows
below. Every run is an ordinary run of ``run_recbole_think.py`` in ``<folder>/<row>-<seed>``, found finished or gone on
with where it is there already; about 45 minutes a seed on one core. Test NDCG@10 of a user is the mean over seeds,
differences are of the same users, intervals are 95 % of a paired bootstrap over users. ``--show`` runs nothing and
reads the folders.
Writes benchmarks/results/ladder-<dataset>.json.
"""

import argparse
import csv
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from bench import RESULTS

from recbole_think.artifacts import read_json, write_json
from recbole_think.instruments import gains, per_user

ALIGNED = ("token_warmup", "multi_task", "recommendation")
ROWS = {  # of the ladder -> stages, the row whose finished ones are taken, further options
    "plain": (("recommendation",), None, ()),
    "aligned": (ALIGNED, None, ()),
    "active": ((*ALIGNED, "activation"), "aligned", ()),
    "enhanced": ((*ALIGNED, "activation", "enhancement"), "active", ("--enhancement.fresh=false",)),
}  # fmt: skip
SPOKEN = {
    "plain": "recommendation only", "aligned": "+ alignment", "active": "+ activation", "enhanced": "+ enhancement",
}  # fmt: skip
METRIC = "ndcg@10"


def main() -> None:
    """Run what is missing, then print and write the ladder."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[2020, 2021, 2022])
    parser.add_argument("--folder", type=Path, default=Path("runs/ladder"))
    parser.add_argument("--dataset", default="ml-100k")
    parser.add_argument("--users", type=int, default=0)
    parser.add_argument("--also", default="", help="further options of every run")
    parser.add_argument("--show", action="store_true")
    given = parser.parse_args()
    if not given.show:
        for seed in given.seeds:
            for row in ROWS:
                climb(given, row, seed)
    found = ladder({row: [read(given.folder / f"{row}-{seed}") for seed in given.seeds] for row in ROWS})
    write_json(RESULTS / f"ladder-{given.dataset}.json", {"seeds": given.seeds, "also": given.also, "rows": found})
    print(table(found))


def climb(given: argparse.Namespace, row: str, seed: int) -> None:
    """One run of the command line."""
    stages, below, others = ROWS[row]
    command = [
        sys.executable, "run_recbole_think.py", "--model=OneRecThink", f"--dataset={given.dataset}", f"--seed={seed}",
        f"--stages=[{','.join(stages)}]", f"--run_folder={given.folder / f'{row}-{seed}'}", *others,
        *([f"--stages_from={given.folder / f'{below}-{seed}'}"] if below else []), *shlex.split(given.also),
        *([f"--instruments.users={given.users}"] if "activation" in stages else []),
    ]  # fmt: skip
    print(shlex.join(command[1:]), file=sys.stderr)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def read(folder: Path) -> dict[str, Any]:
    """What a finished run says, and the metric of each test user."""
    with (folder / "ranks.tsv").open(encoding="utf-8") as lines:
        ranks = [int(row["rank"]) for row in csv.DictReader(lines, delimiter="\t")]
    lists = [[0] * (rank - 1) + [1] if rank else [] for rank in ranks]  # the target is item 1 of each
    users = per_user(lists, np.ones(len(ranks), dtype=np.int64), [10], ["ndcg", "recall"])
    return {**read_json(folder / "metrics.json"), "of_users": users}


def ladder(runs: dict[str, list[dict[str, Any]]]) -> dict[str, dict[str, Any]]:
    """Figures of every row: over users and seeds, against the row before, and against its twin without thinking."""
    found: dict[str, dict[str, Any]] = {}
    before: dict[str, np.ndarray] | None = None
    for row, of_seeds in runs.items():
        users = {name: np.mean([run["of_users"][name] for run in of_seeds], axis=0) for name in of_seeds[0]["of_users"]}
        seeds = [run["test"][METRIC] for run in of_seeds]
        found[row] = {
            "test": {name: float(values.mean()) for name, values in users.items()},
            "of_seeds": seeds,
            "standard_error_of_seeds": float(np.std(seeds, ddof=1) / len(seeds) ** 0.5) if len(seeds) > 1 else None,
            "standard_error_of_users": float(users[METRIC].std(ddof=1) / len(users[METRIC]) ** 0.5),
            "over_row_before": gains(users, before, [10], seed=0) if before else None,
            "thinking": [_thinking(run["reasoning"]) for run in of_seeds if run.get("reasoning")],
            "minutes": [round(run["seconds"]["fit"] / 60, 1) for run in of_seeds],
            **{name: [run[name] for run in of_seeds] for name in ("commit", "hardware", "versions")},
        }
        before = users
    return found


def _thinking(found: dict[str, Any]) -> dict[str, Any]:
    names = ("n_users", "gain", "p_value", "dll", "cost_ratio", "distinct_thoughts", "training_leakage_rate")
    answered = ("thinking", "twin", "empty", "other_user")
    return {**{name: found[name] for name in names}, **{name: found[name][METRIC] for name in answered}}


def table(found: dict[str, dict[str, Any]]) -> str:
    """Print Markdown: a row for each rung, then thinking against its twins by seed."""
    lines = [
        "| stages | test NDCG@10 by seed | mean ± error over seeds, over users | over the row before |",
        "|---|---|---|---|",
    ]
    for row, of in found.items():
        over = of["over_row_before"]
        step = _interval(over[METRIC]) if over else ""
        spread = of["standard_error_of_seeds"]
        errors = f"± {spread:.4f}, " if spread is not None else "± "
        seeds = ", ".join(f"{value:.4f}" for value in of["of_seeds"])
        mean = f"{of['test'][METRIC]:.4f} {errors}{of['standard_error_of_users']:.4f}"
        lines.append(f"| {SPOKEN[row]} | {seeds} | {mean} | {step} |")
    lines += [
        "",
        "| stages | thinking | twin without | difference | empty thought | another's | dLL, nats | headroom | time |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row, of in found.items():
        for seed in of["thinking"]:
            dll = seed["dll"]
            lines.append(
                f"| {SPOKEN[row]} | {seed['thinking']:.4f} | {seed['twin']:.4f} | "
                f"{_interval(seed['gain'][METRIC])}, p = {seed['p_value'][METRIC]:.2f} | {seed['empty']:.4f} | "
                f"{seed['other_user']:.4f} | {dll['mean']:+.3f} ± {dll['standard_error']:.3f} | "
                f"{dll['headroom']:.3f} | {seed['cost_ratio']:.1f} x |"
            )
    return "\n".join(lines)


def _interval(gain: dict[str, float]) -> str:
    return f"{gain['mean']:+.4f} ({gain['low']:+.4f} to {gain['high']:+.4f})"


if __name__ == "__main__":
    main()
