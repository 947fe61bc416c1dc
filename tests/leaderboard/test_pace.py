"""The minutes of a board's YAML are of another machine: the rows made so far tell the pace of this one."""

import pytest

from recbole_think.leaderboard.pace import Pace


def test_before_a_row_has_ended_a_minute_is_a_minute():
    assert Pace().done([(10, 4), (5, 1)]) == 5


def test_on_a_machine_half_as_fast_a_row_at_work_is_half_as_far():
    pace = Pace()
    pace.end(planned=10, taken=30)
    pace.end(planned=5, taken=0)
    assert pace.speed == 0.5
    assert pace.done([(10, 4)]) == 15 + 2


def test_a_row_that_takes_longer_than_planned_is_nearly_done_until_it_is():
    assert Pace().done([(10, 500)]) == pytest.approx(9.8)


def test_a_row_that_was_begun_before_is_done_and_says_nothing_of_the_pace():
    pace = Pace()
    pace.end(planned=90, taken=0.1, resumed=True)
    assert pace.speed == 1 and pace.done([(60, 1)]) == 91


def test_a_row_that_took_no_time_says_nothing_of_the_pace():
    pace = Pace()
    pace.end(planned=1, taken=0)
    assert pace.speed == 1 and pace.done([]) == 1
