"""Reward on users a policy was neither trained nor chosen on, under the same chance before and after."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from scipy import stats

from recbole_think.stages.rewards import REWARDS, Led, RewardOptions

HeldOut = Callable[[Any], dict[str, np.ndarray]]  # language model -> by reward, float64 [U], mean of a user's thoughts


def all_compared(before: dict[str, np.ndarray], after: dict[str, np.ndarray]) -> dict[str, dict[str, float]]:
    """Compare every reward of the same users."""
    return {name: compared(before[name], after[name]) for name in before}


def compared(before: np.ndarray, after: np.ndarray) -> dict[str, float]:
    """Compare one reward of the same users: means, mean difference, its standard error, p of a paired t-test."""
    gain = after - before
    error = float(gain.std(ddof=1) / np.sqrt(len(gain))) if len(gain) > 1 else 0.0
    p = float(stats.ttest_rel(after, before).pvalue) if error > 0 else 1.0
    return {
        "users": len(gain), "before": float(before.mean()), "after": float(after.mean()), "gain": float(gain.mean()),
        "standard_error": error, "p_value": p,
    }  # fmt: skip


def mean_rewards(led: Sequence[Sequence[Led]], options: RewardOptions) -> dict[str, np.ndarray]:
    """Mean over the thoughts of each user, of the total as weighed and of every reward: float64 [U] each."""
    functions = {"total": options.total, **REWARDS}
    return {
        name: np.array([float(np.mean([reward(one) for one in of_user])) for of_user in led])
        for name, reward in functions.items()
    }
