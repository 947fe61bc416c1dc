from dataclasses import replace

import numpy as np
import pytest

from recbole_think.errors import InputError
from recbole_think.options import read_options
from recbole_think.stages.rewards import REWARDS, Led, RewardOptions

# four beams of three codes; the target is item 8 with codes 1, 2, 3
LED = Led(
    codes=np.array([[1, 0, 3], [0, 2, 3], [1, 2, 0], [4, 4, 4]]), items=np.array([5, 6, 7, 9]), target=8,
    target_codes=np.array([1, 2, 3]), beams=4, tokens=6, longest=24, closed=True, log_prob=-2.5,
)  # fmt: skip
HIT = replace(LED, codes=np.array([[1, 0, 3], [1, 2, 3], [0, 2, 3]]), items=np.array([5, 8, 6]))
NOTHING = replace(LED, codes=np.zeros((0, 3), dtype=np.int64), items=np.zeros(0, dtype=np.int64))


@pytest.mark.parametrize(
    ("name", "missed", "hit", "nothing"),
    [
        ("position", 2.0, 3.0, 0.0),
        ("prefix", 2.0, 3.0, 0.0),
        ("hit", 0.0, 1.0, 0.0),
        ("ranked_hit", 0.0, 1 / np.log2(3), 0.0),
        ("distinct", 0.0, (2 - 1) / 3, 0.0),
        ("likelihood", -2.5, -2.5, -2.5),
        ("form", 1.0, 1.0, 1.0),
        ("length", 0.75, 0.75, 0.75),
    ],
)
def test_a_reward_is_what_it_says(name, missed, hit, nothing):
    assert [REWARDS[name](led) for led in (LED, HIT, NOTHING)] == pytest.approx([missed, hit, nothing])


def test_by_position_a_later_code_counts_by_prefix_only_up_to_the_first_wrong_one():
    late = replace(LED, codes=np.array([[0, 2, 3]]))
    assert REWARDS["position"](late) == 2 and REWARDS["prefix"](late) == 0


def test_a_thought_that_was_cut_or_says_nothing_has_no_form():
    assert REWARDS["form"](replace(LED, closed=False)) == 0 == REWARDS["form"](replace(LED, tokens=0))
    assert REWARDS["length"](replace(LED, tokens=24)) == 0


def test_weights_add_up_and_what_is_not_wanted_is_not_there():
    options = RewardOptions(position=0.5, hit=2.0)
    assert options.total(HIT) == 0.5 * 3 + 2 and options.weighed == {"position": 0.5, "hit": 2.0}


def test_no_reward_at_all_and_unknown_ones_are_refused():
    with pytest.raises(InputError, match="all weights are 0"):
        RewardOptions(position=0.0)
    with pytest.raises(InputError, match=r"unknown option rewards.hits; did you mean rewards.hit"):
        read_options(RewardOptions, {"hits": 1.0}, "rewards")
