"""Paired statistics over users: metrics from ranks, and the bootstrap that tells a difference from chance.

Two rows are compared user by user, so that what makes a user easy or hard drops out. Knows nothing of models.
U users, R resamples.
"""

from collections.abc import Sequence

import numpy as np

RESAMPLES = 10_000
METRICS = ("recall", "ndcg", "mrr")
QUARTERS = (0.25, 0.5, 0.75)


def of_ranks(ranks: np.ndarray, topk: Sequence[int], metrics: Sequence[str] = METRICS) -> dict[str, np.ndarray]:
    """Metrics of each user by name, such as ``ndcg@10``: float64 [U].

    Args:
        ranks: int [U], place of the one target, 0 = not in the list.
        topk: lengths of list.
        metrics: of ``METRICS``.
    """
    found = {}
    place = np.maximum(ranks, 1)
    for metric in metrics:
        for k in topk:
            hit = (ranks > 0) & (ranks <= k)
            worth = {"recall": np.ones(len(ranks)), "ndcg": 1 / np.log2(place + 1), "mrr": 1 / place}[metric]
            found[f"{metric}@{k}"] = np.where(hit, worth, 0.0)
    return found


def quarter_of(values: np.ndarray) -> np.ndarray:
    """Which quarter of the users each one is in by a value, lowest first; equal values stay together: int64 [U]."""
    return np.searchsorted(np.unique(np.quantile(values, QUARTERS)), values)


def bootstrap_p(one: np.ndarray, other: np.ndarray, seed: int) -> float:
    """Two-sided p of a paired bootstrap over users: how rarely a resampled difference has the other sign."""
    gain = one - other
    if not gain.any():
        return 1.0
    means = resampled(gain, seed)
    beyond = min((means <= 0).sum(), (means >= 0).sum())
    return float(min(1.0, 2 * (beyond + 1) / (RESAMPLES + 1)))


def interval(values: np.ndarray, seed: int) -> tuple[float, float]:
    """95 % interval of the mean by the bootstrap over users."""
    low, high = np.percentile(resampled(values, seed), [2.5, 97.5]).tolist()
    return low, high


def resampled(values: np.ndarray, seed: int) -> np.ndarray:
    """Means of users drawn again and again: float64 [R].

    Only the distinct values matter, so how often each is drawn is drawn: of 22,000 users nine tenths have the same 0.
    They stand in the order they are met, so that values of the other sign are drawn alike.
    """
    dice = np.random.default_rng([seed, 9000])
    distinct, first, times = np.unique(values, return_index=True, return_counts=True)
    met = first.argsort()
    drawn = dice.multinomial(len(values), times[met] / len(values), size=RESAMPLES)
    return drawn @ distinct[met] / len(values)
