"""All-position SASRec against RecBole's SASRec: supervised items per second of training, same model, same data.

    python benchmarks/sasrec.py [--history=50] [--seconds=10] [--repeats=3]

ml-100k, as RecBole's wheel carries it. Both sides make whole optimizer steps with the same modules, sizes, dropout and
Adam; RecBole's reads one padded row per prefix, in batches of as many predictions. They take turns in this process.
Writes benchmarks/results/sasrec.json.
"""

import argparse
import itertools
import os
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from bench import keep, medians, options
from floor import Product, backward, products_seconds
from recbole.utils import init_seed

from recbole_think import catalog
from recbole_think.config import ThinkConfig
from recbole_think.experiment import prepare, training_data
from recbole_think.memory import keep_memory

WINDOWS = 40  # of ours in a batch


def main() -> None:
    """Time both sides and write the table."""
    keep_memory()
    given = options(__doc__, history=50, seconds=10, repeats=3).parse_args()
    place = Path.cwd()
    with tempfile.TemporaryDirectory() as scratch:
        os.chdir(scratch)  # RecBole writes logs into the working directory
        sides = {"ours": side("SASRecAll", given, WINDOWS), "recbole": side("SASRec", given, WINDOWS * given.history)}
        for trainer in sides.values():
            rate(*trainer, seconds=1)  # sets up
        rates: dict[str, list[float]] = {name: [] for name in sides}
        for _ in range(given.repeats):
            for name, trainer in sides.items():
                rates[name].append(rate(*trainer, seconds=given.seconds))
        os.chdir(place)
    found = medians(rates)
    floor = 1 / floor_seconds(sides["ours"][0].model, given.history)
    ratio = found["ours"] / found["recbole"]
    print("| | supervised items per second |\n|---|---|")
    for name, value in {**found, "floor": floor}.items():
        print(f"| {name} | {value:,.0f} |")
    print(f"ratio {ratio:.1f} x; floor over ours {floor / found['ours']:.1f} x")
    keep("sasrec", given, items_per_second=rates, ratio=ratio, floor=floor)


def side(model: str, given: argparse.Namespace, batch: int) -> tuple[Any, Iterable]:
    """A trainer, and its batches over and over."""
    sizes = {"MAX_ITEM_LIST_LENGTH": given.history, "train_batch_size": batch, "show_progress": False, "n_layers": 2,
             "n_heads": 2, "hidden_size": 64, "inner_size": 256, "hidden_dropout_prob": 0.5, "attn_dropout_prob": 0.5,
             "run_folder": ".", "checkpoint_dir": "checkpoints"}  # fmt: skip
    config = ThinkConfig(model, "ml-100k", config_dict=sizes)
    init_seed(config["seed"], config["reproducibility"])
    data = prepare(config)
    recommender = config.model_class(config, training_data(data.train))
    trainer = catalog.load(catalog.lookup(model).trainer)(config, recommender)
    recommender.train()
    epochs = (trainer.batches(epoch) if hasattr(trainer, "batches") else data.train for epoch in itertools.count())
    return trainer, itertools.chain.from_iterable(epochs)


def rate(trainer: Any, batches: Iterable, seconds: float) -> float:
    """Supervised items per second of whole training steps."""
    model, items, start = trainer.model, 0, time.perf_counter()
    for batch in batches:
        trainer.optimizer.zero_grad()
        model.calculate_loss(batch).backward()
        trainer.optimizer.step()
        rows = batch[model.ITEM_SEQ]
        items += int((rows[:, 1:] > 0).sum()) if type(model).__name__ == "SASRecAll" else len(rows)
        if time.perf_counter() - start > seconds:
            break
    return items / (time.perf_counter() - start)


def floor_seconds(model: Any, history: int) -> float:
    """Seconds per supervised item that the products of a full batch of ours cannot do without (floor.py)."""
    positions, width, inner = WINDOWS * history, model.hidden_size, model.inner_size
    heads = WINDOWS * model.n_heads
    work = [Product(positions, width, width, 4 * model.n_layers), Product(positions, width, inner, model.n_layers),
            Product(positions, inner, width, model.n_layers), Product(positions, width, model.n_items),
            Product(history, width // model.n_heads, history, model.n_layers, heads),
            Product(history, history, width // model.n_heads, model.n_layers, heads)]  # fmt: skip
    return products_seconds([*work, *backward(work)], torch.float32) / positions


if __name__ == "__main__":
    main()
