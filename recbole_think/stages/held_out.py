"""Reward on users a policy was neither trained nor chosen on, under the same chance before and after."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from scipy import stats

HeldOut = Callable[[Any], np.ndarray]  # language model -> float64 [U], mean reward of each user's thoughts


def compared(before: np.ndarray, after: np.ndarray) -> dict[str, float]:
    """Compare the rewards of the same users: means, mean difference, its standard error, p of a paired t-test."""
    gain = after - before
    error = float(gain.std(ddof=1) / np.sqrt(len(gain))) if len(gain) > 1 else 0.0
    p = float(stats.ttest_rel(after, before).pvalue) if error > 0 else 1.0
    return {
        "users": len(gain), "before": float(before.mean()), "after": float(after.mean()), "gain": float(gain.mean()),
        "standard_error": error, "p_value": p,
    }  # fmt: skip


def mean_rewards(rewards: Sequence[Sequence[float]]) -> np.ndarray:
    """Mean over the thoughts of each user: float64 [U]."""
    return np.array([float(np.mean(of_user)) for of_user in rewards])
