"""Residual k-means: item vectors in, item codes out.

Takes float32 [n, d] (row r is item r + 1) and gives int64 [n, levels]. Knows nothing of text, tokenizers or models.
Level 1 clusters the vectors, each further level the residuals that remain (OneRec-Think, "semantic ids";
QARM-style residual k-means). Two items may end with equal codes: ``resolved`` says what happens then.
"""

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
    rebuilt = sum(centres[codes[:, level]] for level, centres in enumerate(quantizer.centres))
    error = ((vectors - rebuilt) ** 2).sum(1)
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


def _distances(vectors: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """Squared distances [n, size], up to a constant per row."""
    return (centres**2).sum(1)[None] - 2 * vectors @ centres.T
