"""All users of an evaluation ranked ahead by a generative model, in length-sorted shards that are kept one by one.

RecBole hands an evaluator its users in the order of the file; here those with prompts of like length are ranked
together under ``decode.tokens_per_batch``, and the evaluator then only looks the lists up. An interrupted evaluation
goes on at the first shard that is missing. Which users make a shard follows from their histories alone, so lists are
the same however often it was interrupted, and any process may make any shard. Prompts exist a shard at a time.
U rows of the evaluation, K length of a list.
"""

import hashlib
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from recbole_think import processes
from recbole_think.artifacts import load_tensors, read_json, save_tensors, write_json
from recbole_think.decoding.engine import OURS
from recbole_think.prompts.batching import token_batches
from recbole_think.workers import ranked, side_by_side

SHARD_USERS = 512  # at least so many users make a shard; what is lost by a kill is one shard


@dataclass(frozen=True)
class Keep:
    """Where shards are kept, and what they depend on besides the configuration."""

    folder: Path
    made_from: Mapping[str, str]

    def opened(self, ranked: str = "") -> Path:
        """Return the folder; shards of other weights, data, users or masks are deleted first.

        Args:
            ranked: digest of who is ranked for, and of what may not be named.
        """
        facts, wanted = self.folder / "facts.json", {"made_from": dict(self.made_from), "ranked": ranked}
        with processes.first_alone() as mine:
            if mine and (not facts.is_file() or read_json(facts) != wanted):
                self.drop()
                write_json(facts, wanted)
        return self.folder

    def drop(self) -> None:
        """Delete the shards."""
        shutil.rmtree(self.folder, ignore_errors=True)


@contextmanager
def ranked_ahead(
    model: Any, loader: Any, keep: Keep | None = None, show_progress: bool = False, rows: Sequence[int] | None = None
) -> Iterator[bool]:
    """Within the block ``model.full_sort_predict`` looks up lists that are ready; score models are left alone.

    Args:
        model: a recommender.
        loader: RecBole's evaluation loader.
        keep: where shards are kept; None = in memory alone.
        show_progress: draw a bar with the time left.
        rows: places in the loader that will be asked for, in that order; None = all.

    Yields:
        Whether lists are ready.
    """
    if not hasattr(model, "ready"):
        yield False
        return
    chosen = np.arange(len(loader.dataset)) if rows is None else np.array(rows, dtype=np.int64)
    with looked_up(model, _ranked(model, loader, chosen, keep, show_progress)) as ready:
        yield ready


@contextmanager
def looked_up(model: Any, lists: Iterable[tuple[int, list[int]]]) -> Iterator[bool]:
    """Within the block ``model.full_sort_predict`` looks up lists that were made elsewhere.

    Args:
        model: a generative recommender.
        lists: user and list of every row that will be asked for, in that order.

    Yields:
        True: lists are ready.
    """
    model.ready = iter(lists)
    try:
        yield True
    finally:
        model.ready = None


def _ranked(
    model: Any, loader: Any, chosen: np.ndarray, keep: Keep | None, show_progress: bool
) -> Iterator[tuple[int, list[int]]]:
    """User and list of every chosen row, in that order."""
    options = model.decode
    users, lengths = (column[chosen] for column in model.users_and_lengths(loader.dataset.inter_feat))
    cut = shards(lengths.tolist(), options.tokens_per_batch)
    table = torch.zeros(len(users), options.candidates, dtype=torch.int32)  # 0 = after the end
    folder = keep.opened(_digest(users, lengths, np.array(SHARD_USERS), *_arrays(model.item_mask))) if keep else None
    missing: list[tuple[list[int], Path | None]] = []
    for number, rows in enumerate(cut):
        path = folder / f"shard-{number:05}.safetensors" if folder else None
        if path is not None and path.is_file():
            table[rows] = _read(model, path)
        else:
            missing.append((rows, path))
    initial = len(users) - sum(len(rows) for rows, _ in missing)  # so that the time left is of what is left
    with tqdm(total=len(users), initial=initial, desc="ranking", unit="user", disable=not show_progress) as bar:
        asked = ((number, model.asked(loader.collate_fn(chosen[rows])[0])) for number, (rows, _) in enumerate(missing))
        for number, users_of, items, answers in _made(model, asked, bar.update):
            rows, path = missing[number]
            table[rows] = items
            if path is not None:
                save_tensors(path, {"users": torch.from_numpy(users_of), "items": items, "answers": answers})
    return ((user, row[row > 0].tolist()) for user, row in zip(users.tolist(), table, strict=True))


def shards(lengths: Sequence[int], budget: int, users: int | None = None) -> list[list[int]]:
    """Cut rows into shards of whole batches, short prompts first.

    Args:
        lengths: tokens of every row's prompt.
        budget: padded tokens of a batch.
        users: least of a shard; ``SHARD_USERS`` if left out.
    """
    found: list[list[int]] = [[]]
    for batch in token_batches(lengths, budget):
        if len(found[-1]) >= (users or SHARD_USERS):
            found.append([])
        found[-1] += batch
    return found if found[0] else []


def _made(
    model: Any, jobs: Iterator[tuple[int, Any]], done: Callable[[int], Any]
) -> Iterator[tuple[int, np.ndarray, Tensor, Tensor]]:
    """Number, users, lists and answers of each shard, made here, by the job's or by ``model.processes`` processes.

    An open engine cannot be handed to others, and each of them would load its own.
    """
    if processes.count() > 1:
        yield from _shared(model, jobs, done)
        return
    if model.processes == 1 or model.engine_name != OURS:
        for number, asked in jobs:
            yield number, asked.users, *ranked(model, asked, done)
        return
    users: dict[int, np.ndarray] = {}

    def remembered() -> Iterator[tuple[int, Any]]:
        for number, asked in jobs:
            users[number] = asked.users
            yield number, asked

    for number, items, answers in side_by_side(model, remembered(), model.processes):
        model.ranker.count(*answers.tolist())
        done(len(items))
        yield number, users.pop(number), items, answers


def _shared(
    model: Any, jobs: Iterator[tuple[int, Any]], done: Callable[[int], Any]
) -> Iterator[tuple[int, np.ndarray, Tensor, Tensor]]:
    """Shards made by all processes of the job in turns, each one a shard, which then all have."""
    model.dtype()  # by all, since it may be measured and written the first time
    while batch := list(islice(jobs, processes.count())):
        mine = batch[processes.number()][1] if processes.number() < len(batch) else None
        before = model.ranker.answers
        made = processes.gathered(ranked(model, mine) if mine is not None else None)
        model.ranker.answers = before  # counted below, as all processes count them
        for (number, asked), (items, answers) in zip(batch, made, strict=False):
            model.ranker.count(*answers.tolist())
            done(len(items))
            yield number, asked.users, items, answers


def _read(model: Any, path: Path) -> Tensor:
    """Read a shard that was made before; its answers count as if they were given now."""
    kept = load_tensors(path)
    model.ranker.count(*kept["answers"].tolist())
    return kept["items"]


def _arrays(mask: Any) -> list[np.ndarray]:
    return [] if mask is None else [mask.starts, mask.items]


def _digest(*arrays: np.ndarray) -> str:
    found = hashlib.sha256()
    for array in arrays:
        found.update(f"{array.dtype}{array.shape}".encode())
        found.update(np.ascontiguousarray(array).tobytes())
    return found.hexdigest()[:16]
