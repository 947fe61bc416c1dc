"""Residual k-means: item vectors in, item codes out.

Takes float32 [n, d] (row r is item r + 1) and gives int64 [n, levels]. Knows nothing of text, tokenizers or models.
Level 1 clusters the vectors, each further level the residuals that remain (OneRec-Think, "semantic ids";
QARM-style residual k-means). Two items may end with equal codes: ``resolved`` says what happens then.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from recbole_think.errors import InputError


@dataclass(frozen=True)
class Quantizer:
    """Centres of every level."""

    centres: list[np.ndarray]  # L arrays, float32 [size, d]

    def nearest(self, vectors: np.ndarray) -> np.ndarray:
        """Codes of ``vectors`` [n, d], taking the nearest centre level by level: int64 [n, L]."""
        codes, rest = [], vectors
        for centres in self.centres:
            code = _distances(rest, centres).argmin(1)
            codes.append(code)
            rest = rest - centres[code]
        return np.stack(codes, axis=1).astype(np.int64)

    def rebuilt(self, codes: np.ndarray) -> np.ndarray:
        """Sum of the centres that ``codes`` [n, >= L] name, further levels (a counter) left out: float32 [n, d]."""
        parts = [centres[codes[:, level]] for level, centres in enumerate(self.centres)]
        return np.stack(parts).sum(0)

    def by_distance(self, vector: np.ndarray, level: int = 0) -> Iterator[tuple[int, ...]]:
        """Yield every code of one vector [d], nearest first within each level, last level varying fastest."""
        if level == len(self.centres):
            yield ()
            return
        centres = self.centres[level]
        for code in _distances(vector[None], centres)[0].argsort(kind="stable"):
            for rest in self.by_distance(vector - centres[code], level + 1):
                yield (int(code), *rest)


def residual_kmeans(vectors: np.ndarray, levels: int, size: int, seed: int) -> Quantizer:
    """Fit ``levels`` k-means codebooks of ``size`` centres.

    Raises:
        InputError: fewer items than codes of one level, or values that are not finite.
    """
    from sklearn.cluster import KMeans

    if len(vectors) < size:
        raise InputError(f"itemic.size={size} needs at least as many items, the catalogue has {len(vectors)}")
    if not np.isfinite(vectors).all():
        raise InputError("item vectors hold NaN or infinity; check itemic.vector_files and the encoder")
    rest, centres = vectors.astype(np.float64), []  # scikit-learn would convert float32 anew for every centre it draws
    for level in range(levels):
        fitted = KMeans(size, n_init=1, max_iter=60, random_state=seed + level).fit(rest)
        centres.append(fitted.cluster_centers_.astype(np.float32))
        rest = rest - fitted.cluster_centers_[fitted.labels_]
    return Quantizer(centres)


def resolved(codes: np.ndarray, vectors: np.ndarray, quantizer: Quantizer, how: str) -> np.ndarray:
    """Return codes after treating collisions.

    Args:
        codes: int64 [n, L].
        vectors: float32 [n, d].
        quantizer: what made the codes.
        how: ``reassign`` (default: of the items that share a code the nearest keeps it, the others take the nearest
            free one), ``keep``, or ``extra_level`` (one more code that counts the items within a collision).

    Returns:
        int64 [n, L], or [n, L + 1] for ``extra_level``.

    Raises:
        InputError: ``reassign`` with more items than codes.
    """
    if how == "keep":
        return codes
    if how == "extra_level":
        return _with_counter(codes)
    room = np.prod([float(len(centres)) for centres in quantizer.centres])
    if room < len(codes):
        raise InputError(
            f"{len(codes)} items cannot have distinct codes among {room:.0f}; raise itemic.levels or itemic.size"
        )
    return _reassigned(codes, vectors, quantizer)


def _reassigned(codes: np.ndarray, vectors: np.ndarray, quantizer: Quantizer) -> np.ndarray:
    error = ((vectors - quantizer.rebuilt(codes)) ** 2).sum(1)
    taken: set[tuple[int, ...]] = set()
    waiting = []
    for row in np.argsort(error, kind="stable"):
        code = tuple(int(c) for c in codes[row])
        if code in taken:
            waiting.append(row)
        else:
            taken.add(code)
    result = codes.copy()
    for row in waiting:
        free = next(code for code in quantizer.by_distance(vectors[row]) if code not in taken)
        taken.add(free)
        result[row] = free
    return result


def _with_counter(codes: np.ndarray) -> np.ndarray:
    """Append the position of each item among those that share its code."""
    _, group = np.unique(codes, axis=0, return_inverse=True)
    group = group.reshape(-1)
    order = np.argsort(group, kind="stable")
    starts = np.concatenate([[0], np.cumsum(np.bincount(group))])
    counter = np.empty(len(codes), dtype=np.int64)
    counter[order] = np.arange(len(codes)) - starts[group[order]]
    return np.concatenate([codes, counter[:, None]], axis=1)


def without_collisions(table: np.ndarray, sizes: tuple[int, ...], how: str) -> tuple[np.ndarray, tuple[int, ...]]:
    """Treat collisions where no vectors are known, those of imported codes; ``how`` as for ``resolved``.

    ``reassign``: the first item of a code, in the order of the catalogue, keeps it; of every other the last code is
    counted up (from the largest on to 0) to the first free one, or the last two where that level is full, and so on.

    Returns:
        int64 [n, L], or [n, L + 1] for ``extra_level``, and its sizes.

    Raises:
        InputError: ``reassign`` with more items than codes.
    """
    if how == "keep":
        return table, sizes
    if how == "extra_level":
        counted = _with_counter(table)
        return counted, (*sizes, int(counted[:, -1].max()) + 1)
    if np.prod([float(size) for size in sizes]) < len(table):
        raise InputError(
            f"{len(table)} items cannot have distinct codes among {' x '.join(map(str, sizes))}; "
            f"set itemic.collisions=extra_level or keep"
        )
    taken, result = set(map(tuple, table.tolist())), table.copy()
    _, first = np.unique(table, axis=0, return_index=True)
    for row in np.setdiff1d(np.arange(len(table)), first):
        result[row] = _next_free(tuple(table[row].tolist()), sizes, taken)
        taken.add(tuple(result[row].tolist()))
    return result, sizes


def _next_free(code: tuple[int, ...], sizes: tuple[int, ...], taken: set[tuple[int, ...]]) -> tuple[int, ...]:
    for changed in range(1, len(code) + 1):
        head, tail = code[:-changed], code[-changed:]
        turns = [[(start + step) % size for step in range(size)]
                 for start, size in zip(tail, sizes[-changed:], strict=True)]  # fmt: skip
        for ending in itertools.product(*turns):
            if head + ending not in taken:
                return head + ending
    raise AssertionError("there are more codes than items")


def explained(vectors: np.ndarray, rebuilt: np.ndarray) -> float:
    """Share of the variance of ``vectors`` [n, d] that ``rebuilt`` [n, d] keeps: 1 = exact, 0 = as good as the mean."""
    total = float(((vectors - vectors.mean(0)) ** 2).sum())
    left = float(((vectors - rebuilt) ** 2).sum())
    return round(1 - left / total, 4) if total else float(left == 0)


def _distances(vectors: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """Squared distances [n, size], up to a constant per row."""
    return (centres**2).sum(1)[None] - 2 * vectors @ centres.T
