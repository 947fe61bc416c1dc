"""What an item of a list is rewarded for (MiniOneRec, arXiv 2510.24431, and its public code): plain functions.

As their code has it (``rl.py`` at 81b4ba98, reward type "ranking"): a list without the target is rewarded 0 throughout,
and the punishments of a list are shares of the discounts of all of its places, the target's among them.
G items of a list.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Listed:
    """An item's place in a list, and the target's; counted from 0."""

    place: int
    length: int  # G
    right: int  # place of the target, -1 = not in the list


def hit(listed: Listed) -> float:
    """1 for the target."""
    return float(listed.place == listed.right)


def rank(listed: Listed) -> float:
    """Punishment of a wrong item in a list with the target, the larger the higher it stands: 0 to -1."""
    if listed.right in (-1, listed.place):
        return 0.0
    return -_discount(listed.place) / sum(_discount(place) for place in range(listed.length))


def found(listed: Listed) -> float:
    """Whether the list has the target."""
    return float(listed.right >= 0)


def _discount(place: int) -> float:
    return 1 / math.log2(place + 2)


REWARDS: dict[str, Callable[[Listed], float]] = {"hit": hit, "rank": rank}
