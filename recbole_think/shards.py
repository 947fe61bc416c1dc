"""All users of an evaluation ranked ahead by a generative model, in length-sorted shards that are kept one by one.

RecBole hands an evaluator its users in the order of the file; here those with prompts of like length are ranked
together under ``decode.tokens_per_batch``, and the evaluator then only looks the lists up. An interrupted evaluation
goes on at the first shard that is missing. Which users make a shard follows from their histories alone, so lists are
the same however often it was interrupted, and any process may make any shard.
U rows of the evaluation, K length of a list.
"""

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from recbole_think.artifacts import load_tensors, read_json, save_tensors, write_json
from recbole_think.prompts.batching import token_batches

SHARD_USERS = 512  # at least so many users make a shard; what is lost by a kill is one shard


@dataclass(frozen=True)
class Keep:
    """Where shards are kept, and what they depend on besides the configuration."""

    folder: Path
    made_from: Mapping[str, str]

    def opened(self) -> Path:
        """Return the folder; shards of other weights or data are deleted first."""
        facts = self.folder / "facts.json"
        if not facts.is_file() or read_json(facts)["made_from"] != dict(self.made_from):
            self.drop()
            write_json(facts, {"made_from": dict(self.made_from)})
        return self.folder

    def drop(self) -> None:
        """Delete the shards."""
        shutil.rmtree(self.folder, ignore_errors=True)


@contextmanager
def ranked_ahead(model: Any, loader: Any, keep: Keep | None = None, show_progress: bool = False) -> Iterator[bool]:
    """Within the block ``model.full_sort_predict`` looks up lists that are ready; score models are left alone.

    Args:
        model: a recommender.
        loader: RecBole's evaluation loader.
        keep: where shards are kept; None = in memory alone.
        show_progress: draw a bar with the time left.

    Yields:
        Whether lists are ready.
    """
    if not hasattr(model, "ready"):
        yield False
        return
    model.ready = _ranked(model, loader, keep, show_progress)
    try:
        yield True
    finally:
        model.ready = None


def _ranked(model: Any, loader: Any, keep: Keep | None, show_progress: bool) -> Iterator[tuple[int, list[int]]]:
    """User and list of every row, in the loader's order."""
    asked = model.asked(loader.collate_fn(list(range(len(loader.dataset))))[0])
    lists: list[list[int]] = [[] for _ in asked.users]
    folder = keep.opened() if keep else None
    cut = shards([len(prompt) for prompt in asked.prompts], model.options["decode"].tokens_per_batch)
    with tqdm(total=len(lists), desc="ranking", unit="user", disable=not show_progress) as bar:
        for number, rows in enumerate(cut):
            path = folder / f"shard-{number:05}.safetensors" if folder else None
            for row, items in zip(rows, _shard(model, asked.rows(rows), path), strict=True):
                lists[row] = items
            bar.update(len(rows))
    return iter(list(zip(asked.users.tolist(), lists, strict=True)))


def shards(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Cut rows into shards of whole batches, short prompts first.

    Args:
        lengths: tokens of every row's prompt.
        budget: padded tokens of a batch.
    """
    found: list[list[int]] = [[]]
    for batch in token_batches(lengths, budget):
        if len(found[-1]) >= SHARD_USERS:
            found.append([])
        found[-1] += batch
    return found if found[0] else []


def _shard(model: Any, asked: Any, path: Path | None) -> list[list[int]]:
    """Rank the users of one shard, or read what was ranked before."""
    if path is not None and path.is_file():
        kept = load_tensors(path)
        model.ranker.count(*kept["answers"].tolist())
        return [[item for item in row if item] for row in kept["items"].tolist()]
    before = model.ranker.answers
    lists = model.rank(asked)
    if path is not None:
        items = torch.zeros(len(lists), max(1, *(len(row) for row in lists)), dtype=torch.int32)
        for row, ranked in zip(items, lists, strict=True):
            row[: len(ranked)] = torch.tensor(ranked, dtype=torch.int32)
        answers = torch.tensor([now - then for now, then in zip(model.ranker.answers, before, strict=True)])
        save_tensors(path, {"items": items, "answers": answers})
    return lists
