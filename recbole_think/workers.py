"""Lists made by several processes side by side: each has the model, takes users shard by shard, and gives lists back.

Who makes a shard changes nothing in it, as long as a process has as many threads. The process that evaluates keeps what
comes back, so that a kill loses the shards at work and no others.
"""

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch import multiprocessing as processes

from recbole_think.memory import keep_memory

AHEAD = 2  # shards handed out for each process: enough to keep it busy, few enough to hold in memory
_model: Any = None  # of a worker process


def side_by_side(model: Any, jobs: Iterable[tuple[int, Any]], count: int) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Rank for several groups of users at once.

    Args:
        model: a generative recommender; each process gets its weights without a copy.
        jobs: number and ``Asked`` of each group.
        count: of processes.

    Yields:
        Number of a group, its lists (int32 [users, K], 0 after the end), and its illegal and all answers (int64 [2]),
        as they are ready.
    """
    threads = max(1, torch.get_num_threads() // count)
    with processes.get_context("spawn").Pool(count, _begin, (model, threads)) as pool:
        waiting: list[tuple[int, Any]] = []
        for number, asked in jobs:
            waiting.append((number, pool.apply_async(_rank, (asked,))))
            while len(waiting) >= AHEAD * count:
                yield _first(waiting)
        while waiting:
            yield _first(waiting)


def _first(waiting: list[tuple[int, Any]]) -> tuple[int, Tensor, Tensor]:
    number, result = waiting.pop(0)
    return number, *result.get()


def _begin(model: Any, threads: int) -> None:
    global _model
    keep_memory()
    torch.set_num_threads(threads)
    _model = model.eval()


def _rank(asked: Any) -> tuple[Tensor, Tensor]:
    return ranked(_model, asked)


@torch.no_grad()
def ranked(model: Any, asked: Any, done: Any = None) -> tuple[Tensor, Tensor]:
    """Lists of some users, int32 [users, K], 0 after the end, and their illegal and all answers, int64 [2]."""
    before = model.ranker.answers
    items = torch.zeros(len(asked.users), model.decode.candidates, dtype=torch.int32)
    for row, names in zip(items, model.rank(asked, done), strict=True):
        row[: len(names)] = torch.tensor(names, dtype=torch.int32)
    return items, torch.tensor([now - then for now, then in zip(model.ranker.answers, before, strict=True)])
