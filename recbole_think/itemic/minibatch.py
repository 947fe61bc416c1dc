"""Residual k-means for vectors that stay on disk: fitted on a random sample by mini-batches, all items named by chunks.

Takes ``stream.Streamed`` and gives what ``quantize.residual_kmeans`` and ``Quantizer.nearest`` give. Of residuals only
the sample's are in memory. Knows nothing of collisions. n items, d columns, m rows of the sample, L levels.
"""

import math
from typing import NamedTuple

import numpy as np

from recbole_think.errors import InputError
from recbole_think.itemic.quantize import Quantizer, explained_share
from recbole_think.itemic.stream import CHUNK, Streamed

BATCH = 4096  # rows of a mini-batch
STEPS = 480  # mini-batches at least: a small sample is drawn from more often
DRAWN = 10  # rows per centre the first centres are chosen among; far more of them take longer than all that follows
PASSES = 10  # of Lloyd's algorithm over the whole sample in the end; after three it is .1 to 1 % from convergence


class Named(NamedTuple):
    """Codes of all items and what they leave over."""

    codes: np.ndarray  # int64 [n, L]
    error: np.ndarray  # float32 [n], squared distance to what the codes name
    total: float  # sum of squared distances to the mean

    @property
    def explained(self) -> float:
        """Share of the variance of the vectors that the codes keep, as ``quantize.explained``."""
        return explained_share(float(self.error.sum(dtype=np.float64)), self.total)


def minibatch_kmeans(sample: np.ndarray, levels: int, size: int, seed: int) -> Quantizer:
    """Fit ``levels`` k-means codebooks of ``size`` centres; ``sample``, float32 [m, d], holds the residuals in the end.

    Mini-batches (Sculley 2010) come near for the price of two passes over a million rows; full passes do the rest.

    Raises:
        InputError: fewer rows than codes of one level.
    """
    from sklearn.cluster import KMeans, MiniBatchKMeans

    if len(sample) < size:
        raise InputError(f"itemic.size={size} needs at least as many items, the catalogue has {len(sample)}")
    centres, epochs = [], math.ceil(STEPS * min(BATCH, len(sample)) / len(sample))
    for level in range(levels):
        begun = MiniBatchKMeans(
            size, batch_size=BATCH, init_size=DRAWN * size, max_iter=epochs, n_init=1, max_no_improvement=None,
            compute_labels=False, random_state=seed + level,
        ).fit(sample)  # fmt: skip
        # a tolerance would be scaled by the variance, for which scikit-learn makes another sample
        fitted = KMeans(size, init=begun.cluster_centers_, n_init=1, max_iter=PASSES, tol=0, copy_x=False).fit(sample)
        centres.append(fitted.cluster_centers_)
        for begin in range(0, len(sample), CHUNK):
            rows = slice(begin, begin + CHUNK)
            sample[rows] -= centres[-1][fitted.labels_[rows]]
    return Quantizer(centres)


def named(vectors: Streamed, quantizer: Quantizer) -> Named:
    """Name all items, reading them once."""
    n, d = vectors.shape
    codes, error = np.empty((n, len(quantizer.centres)), np.int64), np.empty(n, np.float32)
    sums, squares = np.zeros(d), 0.0
    for rows in vectors.chunks():
        part = vectors[rows]
        codes[rows] = quantizer.nearest(part)
        error[rows] = left_over(part, codes[rows], quantizer)
        sums += part.sum(0, dtype=np.float64)
        squares += float((part**2).sum(dtype=np.float64))
    return Named(codes, error, squares - float((sums**2).sum()) / n)


def renamed(vectors: Streamed, before: Named, codes: np.ndarray, quantizer: Quantizer) -> Named:
    """What is left over where some items were given other ``codes``, int64 [n, >= L]; those alone are read."""
    error = before.error.copy()
    moved = np.flatnonzero((codes[:, : before.codes.shape[1]] != before.codes).any(1))
    for begin in range(0, len(moved), CHUNK):
        rows = moved[begin : begin + CHUNK]
        error[rows] = left_over(vectors[rows], codes[rows], quantizer)
    return Named(codes, error, before.total)


def left_over(vectors: np.ndarray, codes: np.ndarray, quantizer: Quantizer) -> np.ndarray:
    """Squared distances of ``vectors`` [m, d] to what ``codes`` [m, >= L] name: float32 [m]."""
    return ((vectors - quantizer.rebuilt(codes)) ** 2).sum(1)
