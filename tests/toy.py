"""Toy worlds: RecBole atomic files small enough to train on in a second, and runs of them that can be looked into.

The walking world is a ring: item k is mostly followed by item k + 1, so a next-item model has something to learn,
and now and then a walker drops in at one of a few popular places, so a popularity model has too. Many walkers come
back to where they were, so that masking the history changes what can be hit.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

N_ITEMS = 24
POPULAR = (3, 9, 15)  # visited far more often than any other place
ONWARD = 0.6  # chance that item k is followed by item k + 1
START, STEP = 1_300_000_000, 60  # float32 cannot tell minutes apart here unless time is scaled first
TOPK = [5, 10]

# sizes that fit the toy world, by model
_TRANSFORMER = {"n_layers": 1, "hidden_size": 16, "inner_size": 32, "MAX_ITEM_LIST_LENGTH": 12}
SMALL: dict[str, dict[str, Any]] = {
    "Pop": {},
    "ItemKNN": {},
    "BPR": {},
    "GRU4Rec": {"embedding_size": 16, "hidden_size": 16, "MAX_ITEM_LIST_LENGTH": 12},
    "NARM": {"embedding_size": 16, "hidden_size": 16, "MAX_ITEM_LIST_LENGTH": 12},
    "SASRec": _TRANSFORMER,
    "SASRecAll": {**_TRANSFORMER, "train_batch_size": 16},
    "HSTU": {"n_layers": 1, "hidden_size": 16, "MAX_ITEM_LIST_LENGTH": 12, "train_batch_size": 16},
    "CoOccurrence": {},
    "TextSimilarity": {},
    "TIGER": {
        "itemic": {
            "levels": 2, "size": 8, "text_weight": 0.0, "collaborative_weight": 1.0, "collaborative_size": 8,
        },
        "tiger": {
            "layers": 1, "heads": 2, "width": 16, "head_width": 8, "inner": 32, "user_tokens": 50, "num_beams": 24,
        },
        "MAX_ITEM_LIST_LENGTH": 12, "train_batch_size": 64, "eval_step": 1,
    },
    "ReaRec": {**_TRANSFORMER, "train_batch_size": 16},
    "BERT4Rec": _TRANSFORMER,
    "HGN": {"embedding_size": 16, "MAX_ITEM_LIST_LENGTH": 12},
    "LightSANs": _TRANSFORMER,
    "FEARec": {**_TRANSFORMER, "n_layers": 2},  # it divides by n_layers - 1
    "S3Rec": {**_TRANSFORMER, "load_col": {"item": ["item_id", "class"]}, "pretrain_epochs": 1},
    "OneRecThink": {
        "backbone": {"name": "tiny"},
        "itemic": {
            "levels": 2, "size": 8, "text_weight": 0.0, "collaborative_weight": 1.0, "collaborative_size": 8,
        },
        "decode": {"num_beams": 20, "thoughts": 2, "thought_beams": 20, "thought_tokens": 12},
        "alignment": {"general_prompts": 6, "answer_tokens": 8, "judged_items": 0},
        "token_warmup": {"tokens": 600, "validations": 1, "checkpoints": 1, "precision": "float32"},
        "multi_task": {"tokens": 1500, "validations": 1, "checkpoints": 1, "precision": "float32"},
        "recommendation": {"epochs": 1, "validations": 1, "precision": "float32"},
        "item_enhancement": {
            "steps": 2, "prompts": 4, "fresh": False, "beams": 4, "validations": 1, "checkpoints": 1,
            "precision": "float32",
        },
        "activation": {"rounds": 2, "validations": 1, "checkpoints": 1, "precision": "float32", "longest": 12},
        "enhancement": {
            "steps": 2, "prompts": 4, "rationales": 4, "beams": 4, "validations": 1, "valid_users": 20, "held_out": 10,
            "checkpoints": 1, "precision": "float32",
        },
    },
}  # fmt: skip


def title(raw: str) -> str:
    """Title of an item, one per item."""
    return f"Place {raw}"


def walks(n_users: int = 40, seed: int = 7) -> dict[str, list[str]]:
    """Return the whole history of every user, oldest first."""
    dice = random.Random(seed)
    world = {}
    for user in range(n_users):
        place = dice.randrange(N_ITEMS)
        visited = [place]
        for _ in range(dice.randint(7, 11)):
            place = (place + 1) % N_ITEMS if dice.random() < ONWARD else dice.choice(POPULAR)
            visited.append(place)
        world[f"u{user}"] = [f"p{place}" for place in visited]
    return world


def write_toy(data_path: Path, histories: Mapping[str, Sequence[str]] | None = None, name: str = "toy") -> Path:
    """Write ``<data_path>/<name>/<name>.inter`` and ``.item``; return ``data_path``.

    Args:
        data_path: what ``run`` is given as ``data_path``.
        histories: raw item ids per raw user id, oldest first; the walking world if left out.
        name: of the data set.
    """
    histories = walks() if histories is None else histories
    folder = data_path / name
    folder.mkdir(parents=True, exist_ok=True)
    events = [
        (user, raw, START + STEP * number) for user, items in histories.items() for number, raw in enumerate(items)
    ]
    random.Random(0).shuffle(events)  # the order of the file must not matter, only the time
    lines = ["user_id:token\titem_id:token\ttimestamp:float", *("\t".join(map(str, event)) for event in events)]
    (folder / f"{name}.inter").write_text("\n".join(lines) + "\n", encoding="utf-8")
    items = sorted({raw for visited in histories.values() for raw in visited})
    lines = ["item_id:token\ttitle:token\tclass:token_seq"]
    lines += [f"{raw}\t{title(raw)}\t{_classes(number)}" for number, raw in enumerate(items)]
    (folder / f"{name}.item").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return data_path


def _classes(number: int) -> str:
    """Two attributes per item, as attribute-aware models want them."""
    return f"{('park', 'museum', 'cafe')[number % 3]} {('north', 'south')[number % 2]}"


def settings(model: str, data_path: Path, run_folder: Path, **more: Any) -> dict[str, Any]:
    """Return a config_dict for a quick run of ``model`` on the toy world."""
    epochs = {} if model in ("OneRecThink", "CoOccurrence", "TextSimilarity") else {"epochs": 2}
    return {
        "data_path": str(data_path),
        "run_folder": str(run_folder),
        "cache_dir": str(run_folder.parent / "cache"),
        "show_progress": False,
        "topk": TOPK,
        "valid_metric": "NDCG@10",
        **epochs,
        **SMALL.get(model, {}),
        **more,
    }


@dataclass
class Opened:
    """A finished run and what it was made with, still in memory."""

    result: dict[str, Any]
    config: Any
    trainer: Any
    data: Any

    @property
    def metrics(self) -> dict[str, Any]:
        """The content of metrics.json."""
        return self.result["metrics"]


def run_opened(model: str, config_dict: Mapping[str, Any], dataset: str = "toy") -> Opened:
    """Run ``model`` through the public entry, and keep hold of its trainer and data as they pass by."""
    from recbole_think import record
    from recbole_think.experiment import run

    with mock.patch.object(record, "write", wraps=record.write) as write:
        result = run(model, dataset, config_dict=dict(config_dict))
    _, config, trainer, data, *_ = write.call_args_list[0].args  # the second call is the popularity row's
    return Opened(result, config, trainer, data)
