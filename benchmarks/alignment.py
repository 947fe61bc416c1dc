"""Does itemic alignment pay? Three recipes of one token budget, several seeds: python benchmarks/alignment.py

Recommendation only / token warm-up first / warm-up and multi-task integration first. Every recipe reads the same number
of training tokens in all. Finished runs are kept under runs/ and read back, so the same command goes on after a stop.
Prints the table of docs/alignment.md.
"""

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
RECIPES = {
    "recommendation only": ["recommendation"],
    "+ warm-up": ["token_warmup", "recommendation"],
    "+ warm-up + multi-task": ["token_warmup", "multi_task", "recommendation"],
}
METRICS = ("ndcg@10", "recall@10")


def command(recipe: str, seed: int, asked: argparse.Namespace, folder: Path, rest: Sequence[str]) -> list[str]:
    """Return the command of one run; what alignment reads is taken off the recommendation stage."""
    stages = RECIPES[recipe]
    aligned = asked.warmup * ("token_warmup" in stages) + asked.multi_task * ("multi_task" in stages)
    return [
        sys.executable, str(ROOT / "run_recbole_think.py"), "--model=OneRecThink", f"--dataset={asked.dataset}",
        f"--seed={seed}", f"--stages=[{','.join(stages)}]", f"--run_folder={folder}",
        f"--token_warmup.tokens={asked.warmup}", f"--multi_task.tokens={asked.multi_task}",
        f"--recommendation.tokens={asked.tokens - aligned}", "--recommendation.epochs=20", *rest,
    ]  # fmt: skip


def main() -> None:
    """Run what is missing, then print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], epilog="further --key=value words go to every run"
    )
    parser.add_argument("--dataset", default="ml-100k")
    parser.add_argument("--seeds", type=int, nargs="+", default=[2020, 2021, 2022])
    parser.add_argument("--tokens", type=int, default=765_000, help="training tokens of every recipe")
    parser.add_argument("--warmup", type=int, default=40_000, help="of which token warm-up reads")
    parser.add_argument("--multi_task", type=int, default=200_000, help="of which multi-task integration reads")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "alignment")
    asked, rest = parser.parse_known_args()
    found: dict[str, list[dict[str, Any]]] = {recipe: [] for recipe in RECIPES}
    for seed in asked.seeds:  # seed by seed, so that what is there at any time can be compared
        for number, recipe in enumerate(RECIPES):
            folder = asked.runs / asked.dataset / f"{number}-{seed}"
            if not (folder / "metrics.json").is_file():
                subprocess.run(command(recipe, seed, asked, folder, rest), check=True, cwd=ROOT, stdout=sys.stderr)
            found[recipe].append(
                {**json.loads((folder / "metrics.json").read_text(encoding="utf-8")), "folder": folder}
            )
    sys.stdout.write(table(found) + "\n")


def table(found: dict[str, list[dict[str, Any]]]) -> str:
    """Mean and standard deviation over seeds, and the paired difference to the first recipe over users and seeds."""
    heads = ("recipe", "training tokens", "NDCG@10", "Recall@10", "NDCG@10, difference (paired)", "perplexity",
             "caption similarity (random item)", "found@10")  # fmt: skip
    lines = [_row(heads), _row(["---"] * len(heads))]
    first = next(iter(found.values()))
    for recipe, runs in found.items():
        figures = [_spread([run["test"][name] for run in runs]) for name in METRICS]
        tokens = statistics.mean(run["train_tokens"] for run in runs)
        judged = [list(run["alignment"].values())[-1] for run in runs if run["alignment"]]
        told = ("–", "–") if not judged else (
            f"{_mean(judged, 'similarity'):.3f} ({_mean(judged, 'similarity_random_item'):.3f})",
            f"{_mean(judged, 'retrieval_hit@10'):.3f}",
        )  # fmt: skip
        difference = "" if runs is first else _paired(runs, first)
        perplexity = statistics.mean(run["perplexity"][-1]["perplexity"] for run in runs)
        lines.append(_row([recipe, f"{tokens:,.0f}", *figures, difference, f"{perplexity:,.1f}", *told]))
    return "\n".join(lines)


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _spread(values: list[float]) -> str:
    deviation = f" ± {statistics.stdev(values):.4f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.4f}{deviation}"


def _mean(rows: list[dict[str, Any]], key: str) -> float:
    return statistics.mean(row[key] for row in rows)


def _gains(folder: Path) -> np.ndarray:
    """NDCG@10 of every test user."""
    lines = (folder / "ranks.tsv").read_text(encoding="utf-8").splitlines()[1:]
    ranks = np.array([int(line.split("\t")[1]) for line in lines])
    return np.where((ranks >= 1) & (ranks <= 10), 1 / np.log2(np.maximum(ranks, 1) + 1), 0.0)


def _paired(runs: list[dict[str, Any]], first: list[dict[str, Any]]) -> str:
    """Difference of means with its standard error over users, each user's seeds averaged."""
    pairs = zip(runs, first, strict=True)
    difference = np.mean([_gains(run["folder"]) - _gains(base["folder"]) for run, base in pairs], axis=0)
    return f"{difference.mean():+.4f} ± {difference.std(ddof=1) / np.sqrt(len(difference)):.4f}"


if __name__ == "__main__":
    main()
