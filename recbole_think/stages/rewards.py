"""What a thought is rewarded for: plain functions of where it led (OneRec-Think, "Reasoning Enhancement").

K beams of a thought, L codes of an item.
"""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass

import numpy as np

from recbole_think.options import check


@dataclass(frozen=True)
class Led:
    """Where a thought led, and what was wanted."""

    codes: np.ndarray  # int64 [K', L] of its beams, best first
    items: np.ndarray  # int64 [K'] RecBole ids
    target: int  # RecBole id
    target_codes: np.ndarray  # int64 [L]
    beams: int  # K, as asked for
    tokens: int  # of the thought
    longest: int  # tokens it may have
    closed: bool  # it ended by itself
    log_prob: float = 0.0  # of the target after the thought, in nats


def position(led: Led) -> float:
    """Rollout-beam reward as written in the paper: most codes of one beam that are right at their place, 0 to L."""
    return float((led.codes == led.target_codes).sum(1).max(initial=0))


def prefix(led: Led) -> float:
    """The same, counted up to the first code that is wrong: what a trie walk can still use."""
    return float((led.codes == led.target_codes).cumprod(1).sum(1).max(initial=0))


def hit(led: Led) -> float:
    """Whether a beam names the target."""
    return float(led.target in led.items)


def ranked_hit(led: Led) -> float:
    """A hit, discounted by its rank as NDCG does."""
    found = np.flatnonzero(led.items == led.target)
    return 1 / math.log2(found[0] + 2) if len(found) else 0.0


def distinct(led: Led) -> float:
    """OneReason's: a hit, times how many distinct first codes the beams have, 0 to 1."""
    if led.beams < 2:
        return 0.0
    return hit(led) * max(0, len(set(led.codes[:, 0].tolist())) - 1) / (led.beams - 1)


def likelihood(led: Led) -> float:
    """Log-probability of the target after the thought: tells apart what beams rank alike."""
    return led.log_prob


def form(led: Led) -> float:
    """Whether the thought ended by itself, and said something."""
    return float(led.closed and led.tokens > 0)


def length(led: Led) -> float:
    """Shortness: 1 for an empty thought, 0 for the longest."""
    return 1 - led.tokens / led.longest


REWARDS: dict[str, Callable[[Led], float]] = {
    "position": position, "prefix": prefix, "hit": hit, "ranked_hit": ranked_hit, "distinct": distinct,
    "likelihood": likelihood, "form": form, "length": length,
}  # fmt: skip


@dataclass(frozen=True)
class RewardOptions:
    """Weight of every reward (YAML block ``rewards:``)."""

    position: float = 1.0
    prefix: float = 0.0
    hit: float = 0.0
    ranked_hit: float = 0.0
    distinct: float = 0.0
    likelihood: float = 0.0
    form: float = 0.0
    length: float = 0.0

    def __post_init__(self):
        check(any(asdict(self).values()), f"rewards: all weights are 0; give one of {', '.join(REWARDS)} another")

    @property
    def weighed(self) -> dict[str, float]:
        """Weights that are not 0."""
        return {name: float(weight) for name, weight in asdict(self).items() if weight}

    def total(self, led: Led) -> float:
        """The weighted sum."""
        return sum(weight * REWARDS[name](led) for name, weight in self.weighed.items())
