"""Reward on users a policy was neither trained nor chosen on, under the same chance before and after."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from scipy import stats

from recbole_think.decoding.options import DecodeOptions
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


def mean_rewards(
    thoughts: Sequence[Sequence[Any]], targets: np.ndarray, table: np.ndarray, decode: DecodeOptions,
    options: RewardOptions,
) -> dict[str, np.ndarray]:  # fmt: skip
    """Mean over the thoughts of each user, of the total as weighed and of every reward: float64 [U] each.

    Args:
        thoughts: of each user (``Ranker.think``), with the log-probability of the target.
        targets: int64 [U], RecBole ids.
        table: int64 [n, L], codes of the catalogue.
        decode: how was thought.
        options: weights.
    """
    functions = {"total": options.total, **REWARDS}
    led = [
        [_led(thought, target, table, decode) for thought in of_user]
        for of_user, target in zip(thoughts, targets.tolist(), strict=True)
    ]
    return {
        name: np.array([float(np.mean([reward(one) for one in of_user])) for of_user in led])
        for name, reward in functions.items()
    }


def _led(thought: Any, target: int, table: np.ndarray, decode: DecodeOptions) -> Led:
    items = np.array(thought.items, dtype=np.int64)
    return Led(
        codes=table[items - 1], items=items, target=target, target_codes=table[target - 1], beams=decode.thought_beams,
        tokens=len(thought.ids), longest=decode.thought_tokens, closed=thought.closed, log_prob=thought.log_prob,
    )  # fmt: skip
