"""Ranked lists of a split, and the metrics RecBole's evaluator makes of them: an evaluation over many machines.

Shards are those of an evaluation in one process (``shards.py``), so lists are too.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from recbole_think.artifacts import load_tensors, save_tensors, write_json, write_text
from recbole_think.cluster.tasks.of_run import OfRun, RunOptions
from recbole_think.evaluation import Scores
from recbole_think.judging import judge
from recbole_think.shards import shards
from recbole_think.workers import ranked

NAME = "lists.safetensors"


@dataclass(frozen=True)
class RankOptions(RunOptions):
    """Options of task ``rank``; ``split`` is test or valid."""


class Rank(OfRun):
    """Lists of every row of a split."""

    OPTIONS: ClassVar = RankOptions

    def __init__(self, options: RankOptions, folder: Path | None):
        super().__init__(options, ("test", "valid"))
        self.loader, histories = self.run.splits[options.split]
        self.model.item_mask = histories if self.masked else None
        self.users, lengths = self.model.users_and_lengths(self.loader.dataset.inter_feat)
        self._cut = shards(lengths.tolist(), self.model.decode.tokens_per_batch, options.shard_users)
        self.shards = len(self._cut)

    def compute(self, shard: int) -> dict[str, torch.Tensor]:
        """Rank for the users of a shard."""
        rows = np.array(self._cut[shard])
        items, answers = ranked(self.model, self.model.asked(self.loader.collate_fn(rows)[0]))
        return {"rows": torch.from_numpy(rows), "items": items, "answers": answers}

    def write(self, made: dict[str, torch.Tensor], folder: Path) -> None:
        """Write rows of the split (int64 [U]), items (int32 [U, K], 0 after the end), answers (illegal, all)."""
        save_tensors(folder / NAME, made)

    def join(self, results: list[Path], folder: Path) -> None:
        """Write ``lists.jsonl``, a line per row in the order of the split, and ``metrics.json``."""
        lists: dict[int, list[int]] = {}
        for path in results:
            kept = load_tensors(path / NAME)
            self.model.ranker.count(*kept["answers"].tolist())
            for row, items in zip(kept["rows"].tolist(), kept["items"], strict=True):
                lists[row] = items[items > 0].tolist()
        in_order = [(int(user), lists[row]) for row, user in enumerate(self.users)]
        lines = [
            json.dumps({"user": str(self.names[user]), "items": [self.run.names[item] for item in items]})
            for user, items in in_order
        ]
        write_text(folder / "lists.jsonl", "\n".join(lines) + "\n")
        write_json(folder / "metrics.json", self._metrics(judge(self.run, self.options.split, in_order, self.masked)))

    def _metrics(self, scores: Scores) -> dict[str, Any]:
        found = {"metrics": scores.metrics, "standard_error": scores.standard_error, "users": len(scores.users)}
        return {**found, "illegal_rate": scores.illegal_rate, "split": self.options.split, **self.made_from()}
