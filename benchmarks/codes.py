"""How good are the codes of each method? Residual k-means against RQ-VAE, with and without collaborative vectors.

    python benchmarks/codes.py --dataset=ml-100k [--data_path=<folder>] [--itemic.levels=2] [--seed=2020]

Needs no language model. Takes any option of OneRecThink, prints the table of docs/codes.md and writes
benchmarks/results/codes-<dataset>.json. Seconds are CPU seconds of fitting and naming alone.
"""

import dataclasses
import sys
import time
from pathlib import Path

import torch

from recbole_think.artifacts import versions, write_json
from recbole_think.config import ThinkConfig
from recbole_think.corpus.items import read_items
from recbole_think.errors import InputError
from recbole_think.experiment import prepare, require_inputs
from recbole_think.folder import cache_dir
from recbole_think.itemic.build import codes_of, item_vectors
from recbole_think.itemic.codes import health
from recbole_think.itemic.options import METHODS, ItemicOptions
from recbole_think.machine import hardware
from recbole_think.model import atomic_file
from recbole_think.options import read_options

COLUMNS = (
    "vectors", "method", "CPU seconds", "collisions before", "after", "explained before", "after", "used per level",
    "entropy per level", "purity 0 / 1 / 2", "revivals",
)  # fmt: skip


def main(argv: list[str]) -> None:
    """Compare on one data set."""
    given = dict(word.removeprefix("--").partition("=")[::2] for word in argv)
    if not given.get("dataset"):
        raise InputError("--dataset=<name> is missing")
    config = ThinkConfig("OneRecThink", given["dataset"], argv=[w for w in argv if not w.startswith("--dataset=")])
    require_inputs(config)
    options = read_options(ItemicOptions, config["itemic"], "itemic")
    data = prepare(config)
    items, categories = texts(config, data)
    rows = []
    for weight in (options.collaborative_weight, 0.0):
        asked = dataclasses.replace(options, collaborative_weight=weight)
        vectors = item_vectors(asked, items, data.histories, cache_dir(config["cache_dir"]), config["seed"])
        for method in METHODS:
            start = time.process_time()
            codes, raw, fit, _ = codes_of(dataclasses.replace(asked, method=method), vectors, config["seed"])
            seconds = round(time.process_time() - start, 1)
            figures = {**health(codes, raw, categories), **fit}
            rows.append({"collaborative_weight": weight, "seconds": seconds, "sizes": codes.sizes, **figures})
    report(given["dataset"], config["seed"], len(items), rows)


def texts(config, data):
    """Read item texts and categories in RecBole's order."""
    dataset = data.train.dataset
    raw_ids = [str(token) for token in dataset.field2id_token[dataset.iid_field][1:]]
    items, _ = read_items(atomic_file(config, "item"), dataset.iid_field, raw_ids)
    return items, [item.category for item in items]


def report(dataset: str, seed: int, n: int, rows: list[dict]) -> None:
    """Print Markdown and write JSON."""
    print(
        f"{dataset}: {n} items, {' x '.join(map(str, rows[0]['sizes']))} codes, {torch.get_num_threads()} thread(s)\n"
    )
    print(f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}")
    for row in rows:
        weight = row["collaborative_weight"]
        purity = row.get("category_purity", {})
        cells = (
            f"text + {weight:g} x collaborative" if weight else "text alone",
            row["method"],
            row["seconds"],
            f"{row['collisions_before']:.3f}",
            f"{row['collisions_after']:.3f}",
            f"{row['explained_before']:.3f}",
            f"{row['explained_after']:.3f}",
            " / ".join(f"{level['used']:.3f}" for level in row["levels"]),
            " / ".join(f"{level['entropy']:.3f}" for level in row["levels"]),
            " / ".join(f"{share:.3f}" for share in purity.values()) or "none",
            row.get("revivals", ""),
        )
        print(f"| {' | '.join(map(str, cells))} |")
    path = Path(__file__).parent / "results" / f"codes-{dataset}.json"
    write_json(path, {"seed": seed, "items": n, "rows": rows, "hardware": hardware(), "versions": versions()})


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except InputError as why:
        sys.exit(f"error: {why}")
