"""Thoughts about every user, in words and token ids with the items each led to: thinking ahead, over many machines.

Takes a finished run that thinks, and gives one JSON line per user. A thought is drawn from noise that hangs on the
prompt alone, so who thinks it changes nothing.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from recbole_think.artifacts import write_text
from recbole_think.cluster.tasks.of_run import OfRun, RunOptions
from recbole_think.errors import InputError
from recbole_think.prompts.rationale import decoded, items_by_tokens, spoken
from recbole_think.reasoning import thinks
from recbole_think.shards import shards

if TYPE_CHECKING:
    from recbole_think.ranker import Thought

NAME = "thoughts.jsonl"


@dataclass(frozen=True)
class ThinkOptions(RunOptions):
    """Options of task ``think``; ``split`` says how far histories go: all but the last event, but two, or all."""

    split: str = "all"  # or test, valid


class Think(OfRun):
    """Thoughts about every user who has a history."""

    OPTIONS: ClassVar = ThinkOptions

    def __init__(self, options: ThinkOptions, folder: Path | None):
        super().__init__(options, ("all", "test", "valid"))
        if not thinks(self.model):
            raise InputError(f"{options.run_folder} does not think; it takes OneRecThink with stage activation")
        self.histories = self.run.histories_until(options.split)
        self.model.item_mask = self.histories if self.masked else None
        lengths = np.diff(self.histories.starts)
        self.users = np.flatnonzero(lengths)
        cut = shards(
            self.model.ranker.lengths(lengths[self.users]).tolist(), self.model.decode.tokens_per_batch,
            options.shard_users,
        )  # fmt: skip
        self._cut, self.shards = [self.users[rows] for rows in cut], len(cut)
        self._items_of = items_by_tokens(self.model.vocabulary)
        self._weights = self.made_from()["weights"]

    def compute(self, shard: int) -> list[str]:
        """Think about the users of a shard: a JSON line each."""
        users = self._cut[shard]
        prompts = self.model.ranker.prompts([self.histories.of(user) for user in users])
        thought = self.model.think(prompts, lambda rows: self.model.mask_of(users[rows]))
        return [json.dumps(self._line(user, of), ensure_ascii=False) for user, of in zip(users, thought, strict=True)]

    def _line(self, user: int, thoughts: list["Thought"]) -> dict[str, Any]:
        return {
            "user": str(self.names[user]),
            "events": len(self.histories.of(user)),  # of the history that was thought about
            "weights": self._weights,
            "thoughts": [self._told(thought) for thought in thoughts],
        }

    def _told(self, thought: "Thought") -> dict[str, Any]:
        return {
            "words": spoken(decoded(thought.ids, self.model.vocabulary, self._items_of), self.model.items),
            "ids": thought.ids,
            "closed": thought.closed,
            "items": [self.run.names[item] for item in thought.items],
            "scores": thought.scores,
        }

    def write(self, made: list[str], folder: Path) -> None:
        """Write the lines."""
        write_text(folder / NAME, "\n".join(made) + "\n")

    def join(self, results: list[Path], folder: Path) -> None:
        """Write all lines, in the order of RecBole's user ids, which is that of the data set's file."""
        line_of: dict[int, str] = {}
        for users, path in zip(self._cut, results, strict=True):
            line_of.update(zip(users.tolist(), _lines(path / NAME), strict=True))
        write_text(folder / NAME, "".join(line_of[user] for user in self.users.tolist()))


def _lines(path: Path) -> Iterator[str]:
    with path.open(encoding="utf-8", newline="\n") as file:
        yield from file
