"""How far a board is: in the minutes its YAML plans, at the pace of the machine at hand.

The minutes of a YAML were measured on one machine; another may be several times as slow. So every row that ends says
how many of its planned minutes one minute here is worth, and the rows at work are counted at that pace.
"""

from collections.abc import Sequence
from dataclasses import dataclass

NEARLY = 0.98  # of its minutes, where a row that takes longer waits


@dataclass
class Pace:
    """Of the rows made so far."""

    planned: float = 0.0  # minutes, of rows that have ended
    taken: float = 0.0  # minutes they took, side by side or not

    gone_on: float = 0.0  # minutes planned for rows whose beginning was made before, which tell nothing of the pace

    def end(self, planned: float, taken: float, resumed: bool = False) -> None:
        """Note a row that was made, or finished, if it was ``resumed``."""
        if resumed:
            self.gone_on += planned
        else:
            self.planned += planned
            self.taken += taken

    @property
    def speed(self) -> float:
        """Planned minutes that go by in one minute here; 1 until a row has ended."""
        return self.planned / self.taken if self.planned and self.taken else 1.0

    def done(self, going: Sequence[tuple[float, float]]) -> float:
        """Planned minutes that are done, given those (planned, taken so far) of the rows at work."""
        at_work = sum(min(taken * self.speed, NEARLY * planned) for planned, taken in going)
        return self.planned + self.gone_on + at_work
