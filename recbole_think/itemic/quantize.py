"""Residual k-means: item vectors in, item codes out.

Takes float32 [n, d] (row r is item r + 1) and gives int64 [n, levels]. Knows nothing of text, tokenizers or models.
Level 1 clusters the vectors, each further level the residuals that remain (OneRec-Think, "semantic ids";
QARM-style residual k-means). Two items may end with equal codes: ``collisions.py`` says what happens then.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from recbole_think.errors import InputError


@dataclass(frozen=True)
class Quantizer:
    """Centres of every level."""

    centres: list[np.ndarray]  # L arrays, float32 [size, d]

    @cached_property
    def lengths(self) -> list[np.ndarray]:
        """Squared lengths of the centres: L arrays, float32 [size]."""
        return [(centres**2).sum(1) for centres in self.centres]

    def nearest(self, vectors: np.ndarray) -> np.ndarray:
        """Codes of ``vectors`` [n, d], taking the nearest centre level by level: int64 [n, L]."""
        codes, rest = [], vectors
        for level, centres in enumerate(self.centres):
            code = self.distances(rest, level).argmin(1)
            codes.append(code)
            rest = rest - centres[code]
        return np.stack(codes, axis=1).astype(np.int64)

    def rebuilt(self, codes: np.ndarray) -> np.ndarray:
        """Sum of the centres that ``codes`` [n, >= L] name, further levels (a counter) left out: float32 [n, d]."""
        parts = [centres[codes[:, level]] for level, centres in enumerate(self.centres)]
        return np.stack(parts).sum(0)

    def heads_by_distance(self, vector: np.ndarray, level: int = 0) -> Iterator[tuple[tuple[int, ...], np.ndarray]]:
        """Name one vector [d] by all codes but the last, nearest first within each level, later levels varying faster.

        Yields:
            the codes, and what they leave over, [d].
        """
        if level + 1 == len(self.centres):
            yield (), vector
            return
        for code in self.distances(vector[None], level)[0].argsort(kind="stable").tolist():
            for head, rest in self.heads_by_distance(vector - self.centres[level][code], level + 1):
                yield (code, *head), rest

    def distances(self, vectors: np.ndarray, level: int) -> np.ndarray:
        """Squared distances to the centres of a level, up to a constant per row: [n, size]."""
        return self.lengths[level][None] - 2 * vectors @ self.centres[level].T


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


def explained(vectors: np.ndarray, rebuilt: np.ndarray) -> float:
    """Share of the variance of ``vectors`` [n, d] that ``rebuilt`` [n, d] keeps: 1 = exact, 0 = as good as the mean."""
    total = float(((vectors - vectors.mean(0)) ** 2).sum())
    left = float(((vectors - rebuilt) ** 2).sum())
    return explained_share(left, total)


def explained_share(left: float, total: float) -> float:
    """Share of a sum of squares, ``total``, of which ``left`` is left over."""
    return round(1 - left / total, 4) if total else float(left == 0)
