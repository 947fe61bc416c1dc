"""Thinking ahead: several thoughts about a user, and the codes each lets an item begin with (section 5 of the paper).

A catalogue of first codes is a catalogue: the beams that find them are those of any answer, on a trie that ends early.
T thoughts of a user, m prefixes of each, d codes of a prefix, L codes of an item.
"""

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recbole_think.decoding.item_mask import ItemMask
from recbole_think.decoding.options import DecodeOptions
from recbole_think.itemic.codes import Codes
from recbole_think.options import check
from recbole_think.prompts.rationale import decoded, items_by_tokens, spoken
from recbole_think.ranker import Ranker
from recbole_think.serving.store import Entry


@dataclass(frozen=True)
class AheadOptions:
    """How much is thought ahead; the paper says neither T nor m."""

    thoughts: int = 5  # T
    prefixes: int = 20  # m, of each thought
    depth: int = 2  # d; where items have as few codes, one less than they have

    def __post_init__(self):
        for name in ("thoughts", "prefixes", "depth"):
            check(getattr(self, name) >= 1, f"--{name} must be at least 1, got {getattr(self, name)}")


@dataclass(frozen=True)
class Rationale:
    """One thought, and the codes it lets an item begin with."""

    words: str  # items by title
    prefixes: list[list[int]]  # m times d codes, best first
    scores: list[float]  # log-probability of each after this thought

    def leading_to(self, codes: Sequence[int]) -> float | None:
        """Log-probability of the prefix that an item with these codes begins with; None = it begins with none."""
        pairs = zip(self.prefixes, self.scores, strict=True)
        return next((score for prefix, score in pairs if list(codes[: len(prefix)]) == prefix), None)


@dataclass(frozen=True)
class Ahead:
    """What was thought about one user."""

    rationales: list[Rationale]
    events: int  # of the history that was thought about
    at: float  # when, seconds since 1970

    def codes(self) -> Tensor:
        """Prefixes of all thoughts, each once: int64 [at most T * m, d]."""
        return torch.tensor(sorted({tuple(prefix) for one in self.rationales for prefix in one.prefixes}))

    def leading_to(self, codes: Sequence[int]) -> int | None:
        """Which thought speaks most for an item with these codes; None = none of them."""
        scores = [one.leading_to(codes) for one in self.rationales]
        found = [number for number, score in enumerate(scores) if score is not None]
        return max(found, key=lambda number: scores[number] or 0.0) if found else None

    @property
    def text(self) -> str:
        """As a store keeps it."""
        return json.dumps(asdict(self), ensure_ascii=False)

    @classmethod
    def of(cls, text: str) -> "Ahead":
        """Read what a store kept."""
        found = json.loads(text)
        return cls([Rationale(**one) for one in found["rationales"]], found["events"], found["at"])


def stamp(history: np.ndarray) -> str:
    """Of a history: another one was not thought about."""
    return hashlib.sha256(np.ascontiguousarray(history, dtype=np.int64).tobytes()).hexdigest()[:16]


class Thinker:
    """Thinks ahead with a model."""

    def __init__(self, model: Any, options: AheadOptions, masked: bool):
        """Take a model that thinks.

        Args:
            model: ``OneRecThink``.
            options: how much.
            masked: a prefix of which a history holds every item is no use, since lists leave those out.
        """
        ranker = model.ranker
        self.model, self.masked = model, masked
        depth = min(options.depth, ranker.codes.levels - 1)
        check(depth > 0, "items of one code have no prefix: thinking ahead takes codes of two levels or more")
        self.prefixes, self._of_item, self._sizes = np.unique(
            ranker.codes.table[:, :depth], axis=0, return_inverse=True, return_counts=True
        )  # [p, d]; prefix of every item [n]; items below each [p]
        self._of_item = self._of_item.reshape(-1)
        self.decode: DecodeOptions = replace(
            model.options["decode"], think=True, thoughts=options.thoughts,
            thought_beams=min(options.prefixes, len(self.prefixes)),
        )  # fmt: skip
        model.open_engine(self.decode.engine)
        tokens = ranker.vocabulary.code_tokens[:depth]
        self.ranker = Ranker(
            ranker.language_model, replace(ranker.vocabulary, code_tokens=tokens),
            Codes(self.prefixes, ranker.codes.sizes[:depth]), ranker.max_history, ranker.words, ranker.seed,
            ranker.engine,
        )  # fmt: skip
        self._items_of = items_by_tokens(ranker.vocabulary)
        self.dtype = model.dtype()

    def lengths(self, histories: np.ndarray) -> np.ndarray:
        """Tokens of prompts, from the number of items of each history: int64 [B]."""
        return self.model.ranker.lengths(histories)

    def entries(self, histories: Sequence[np.ndarray]) -> list[Entry]:
        """What is thought about each history (int64 [h >= 1], RecBole ids, oldest first), as a store keeps it."""
        prompts = self.model.ranker.prompts(list(histories))
        thought = self.ranker.think(
            prompts, lambda rows: self._mask([histories[row] for row in rows]), self.decode, self.dtype
        )
        found = []
        for history, thoughts in zip(histories, thought, strict=True):
            rationales = [
                Rationale(self._words(one.ids), self.prefixes[np.array(one.items, dtype=int) - 1].tolist(), one.scores)
                for one in thoughts
            ]
            found.append(Entry(stamp(history), Ahead(rationales, len(history), time.time()).text))
        return found

    def _words(self, ids: Sequence[int]) -> str:
        return spoken(decoded(ids, self.model.vocabulary, self._items_of), self.model.items)

    def _mask(self, histories: Sequence[np.ndarray]) -> ItemMask | None:
        """Prefixes that lead to nothing that may be named: cells of [B, p]."""
        if not self.masked:
            return None
        users, prefixes = [], []
        for user, history in enumerate(histories):
            met, counts = np.unique(self._of_item[np.unique(history) - 1], return_counts=True)
            gone = met[counts == self._sizes[met]]
            gone = gone if len(gone) < len(self.prefixes) else gone[:0]  # somebody who has met everything
            users.append(np.full(len(gone), user))
            prefixes.append(gone)
        rows, columns = (torch.from_numpy(np.concatenate(part)).long() for part in (users, prefixes))
        return ItemMask(rows, columns, (len(histories), len(self.prefixes)))
