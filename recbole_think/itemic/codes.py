"""The code table: one row of L codes per item, saved with its facts, and how healthy it is."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from recbole_think.artifacts import load_tensors, save_tensors
from recbole_think.errors import InputError

LETTERS = "abcdefghijklmnopqrstuvwxyz"
MOST_LEVELS = len(LETTERS)  # one each


@dataclass(frozen=True)
class Codes:
    """Codes of a catalogue: ``table[r]`` are the codes of item r + 1."""

    table: np.ndarray  # int64 [n, L]
    sizes: tuple[int, ...]  # codes a level may use, one number per level

    def __post_init__(self):
        if self.table.ndim != 2 or self.table.shape[1] != len(self.sizes):
            raise InputError(f"codes have shape {self.table.shape}, expected [n, {len(self.sizes)}]")
        if self.levels > MOST_LEVELS:
            raise InputError(f"codes have {self.levels} levels, there are letters for {MOST_LEVELS}; use fewer levels")
        for level, size in enumerate(self.sizes):
            if self.table[:, level].min() < 0 or self.table[:, level].max() >= size:
                raise InputError(f"codes of level {level + 1} must lie in 0..{size - 1}")

    @property
    def levels(self) -> int:
        """Number of codes that name one item."""
        return len(self.sizes)

    def save(self, path: Path) -> None:
        """Write the table as safetensors."""
        import torch

        save_tensors(path, {"codes": torch.from_numpy(self.table), "sizes": torch.tensor(self.sizes)})

    @staticmethod
    def load(path: Path) -> "Codes":
        """Read a table back."""
        tensors = load_tensors(path)
        return Codes(tensors["codes"].numpy(), tuple(tensors["sizes"].tolist()))


def sizes_of(table: np.ndarray, levels: int, size: int) -> tuple[int, ...]:
    """Codes of every level of a table [n, >= levels]; of one that counts collisions as many as it needs."""
    extra = tuple(int(table[:, level].max()) + 1 for level in range(levels, table.shape[1]))
    return (size,) * levels + extra


def spelling(level: int, code: int) -> str:
    """The itemic token of a code, such as ``<a_17>``; levels count from 0."""
    return f"<{LETTERS[level]}_{code}>"


def packed(table: np.ndarray, sizes: Sequence[int] | None = None) -> np.ndarray:
    """Codes [n, L] as one number each, ordered as the rows are.

    Args:
        table: int64 [n, L].
        sizes: codes of each level; None = as many as there are.

    Returns:
        int64 [n], or Python's integers where 63 bits are too few.
    """
    sizes = (table.max(0) + 1).tolist() if sizes is None else sizes
    room = np.prod([float(size) for size in sizes])
    keys = np.zeros(len(table), np.int64 if room < 2**63 else object)
    for column, size in zip(table.T, sizes, strict=True):
        keys = keys * size + column.astype(keys.dtype)
    return keys


def collision_rate(table: np.ndarray) -> float:
    """Share of items whose codes another item has as well."""
    _, counts = np.unique(packed(table), return_counts=True)
    return float(counts[counts > 1].sum() / len(table))


def health(codes: Codes, raw_table: np.ndarray, categories: Sequence[str | None]) -> dict:
    """Figures that tell a good code table from a bad one.

    Args:
        codes: the table in use.
        raw_table: the table before collisions were treated, int64 [n, L].
        categories: one word per item, or None where the data set has none.

    Returns:
        Per level the share of codes used and the normalised entropy; collision rates before and after; purity of
        the first one and two codes: the share of items in the majority category of their prefix, beside the share
        a single prefix would have.
    """
    levels = []
    for level, size in enumerate(codes.sizes):
        counts = np.bincount(codes.table[:, level], minlength=size)
        share = counts[counts > 0] / counts.sum()
        entropy = float(-(share * np.log(share)).sum() / np.log(size)) if size > 1 else 1.0
        levels.append({"used": float((counts > 0).mean()), "entropy": round(entropy, 4)})
    figures = {
        "levels": levels,
        "collisions_before": round(collision_rate(raw_table), 4),
        "collisions_after": round(collision_rate(codes.table), 4),
    }
    if any(categories):
        purity = {
            f"first_{depth}": _purity(codes.table[:, :depth], categories) for depth in range(min(3, codes.levels))
        }
        figures["category_purity"] = purity
    return figures


def _purity(prefixes: np.ndarray, categories: Sequence[str | None]) -> float:
    """Share of items in the majority category among the items with their prefix (no prefix: one group)."""
    groups: dict[tuple, Counter] = {}
    for prefix, category in zip(prefixes.tolist(), categories, strict=True):
        groups.setdefault(tuple(prefix), Counter())[category] += 1
    return round(sum(group.most_common(1)[0][1] for group in groups.values()) / len(prefixes), 4)
