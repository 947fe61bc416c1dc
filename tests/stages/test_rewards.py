import math

import numpy as np
import pytest

from recbole_think.errors import InputError
from recbole_think.options import read_options
from recbole_think.stages.rewards import REWARDS, Led, RewardOptions

TARGET, CODES = 7, (1, 2, 3)


def led(*codes, **given):
    table = np.array(codes, dtype=np.int64).reshape(-1, 3)
    items = [TARGET if tuple(row) == CODES else 100 + number for number, row in enumerate(codes)]
    facts = {"beams": len(codes), "tokens": 6, "longest": 24, "closed": True, **given}
    return Led(table, np.array(items, dtype=np.int64), TARGET, np.array(CODES), **facts)


def worth(name, *codes, **given):
    return REWARDS[name](led(*codes, **given))


HIT, OTHER = (1, 2, 3), (0, 0, 0)


@pytest.mark.parametrize(
    ("beams", "right", "before_the_first_wrong"),
    [
        ([(0, 0, 0)], 0, 0),
        ([(1, 0, 0)], 1, 1),
        ([(1, 2, 0)], 2, 2),
        ([(1, 2, 3)], 3, 3),
        ([(0, 2, 3)], 2, 0),
        ([(1, 0, 3)], 2, 1),
        ([(0, 2, 3), (1, 0, 0)], 2, 1),
        ([(1, 0, 0), (0, 2, 0), (0, 0, 3)], 1, 1),
        ([(3, 1, 2), (2, 3, 1)], 0, 0),
        ([], 0, 0),
    ],
)
def test_codes_are_rewarded_at_their_place_and_as_a_prefix_up_to_the_first_wrong_one(
    beams, right, before_the_first_wrong
):
    assert worth("position", *beams) == right
    assert worth("prefix", *beams) == before_the_first_wrong


def test_a_hit_is_a_hit_at_any_rank_and_worth_less_further_down_if_ranked():
    for rank in range(1, 6):
        beams = [OTHER] * (rank - 1) + [HIT] + [OTHER] * (5 - rank)
        assert worth("hit", *beams) == 1.0
        assert worth("ranked_hit", *beams) == pytest.approx(1 / math.log2(rank + 1))
    assert worth("ranked_hit", HIT) == 1.0
    assert worth("hit", OTHER, OTHER) == worth("ranked_hit", OTHER, OTHER) == 0.0
    assert worth("hit") == worth("ranked_hit") == 0.0, "no beams at all"


@pytest.mark.parametrize(
    ("beams", "asked", "wanted"),
    [
        ([HIT, (1, 0, 0), (1, 1, 0), (1, 2, 0)], 4, 0.0),  # one first code
        ([HIT, (0, 0, 0), (0, 1, 0), (1, 2, 0)], 4, 1 / 3),
        ([HIT, (0, 0, 0), (2, 1, 0), (3, 2, 0)], 4, 1.0),
        ([OTHER, (1, 0, 0), (2, 1, 0), (3, 2, 0)], 4, 0.0),  # no hit
        ([HIT, (0, 0, 0)], 4, 1 / 3),  # fewer items than beams asked for
        ([HIT], 1, 0.0),
        ([], 4, 0.0),
    ],
)
def test_a_hit_among_distinct_first_codes_is_rewarded_by_their_number(beams, asked, wanted):
    assert worth("distinct", *beams, beams=asked) == pytest.approx(wanted)


def test_likelihood_is_the_log_probability_of_the_target():
    assert worth("likelihood", OTHER, log_prob=-3.25) == -3.25


def test_form_wants_a_thought_that_ended_by_itself_and_said_something():
    assert worth("form", HIT) == 1.0
    assert worth("form", HIT, closed=False) == worth("form", HIT, tokens=0) == 0.0


def test_a_shorter_thought_is_worth_more_by_length():
    assert [worth("length", HIT, tokens=tokens) for tokens in (0, 6, 24)] == [1.0, 0.75, 0.0]


def test_every_reward_has_a_weight_and_every_weight_a_reward():
    assert set(RewardOptions(**dict.fromkeys(REWARDS, 1.0)).weighed) == set(REWARDS)
    assert RewardOptions().weighed == {"position": 1.0}, "the paper's alone unless asked otherwise"


def test_the_total_is_the_weighted_sum_of_what_is_weighed():
    where = led((1, 0, 3), HIT, (2, 0, 0), log_prob=-2.0)
    options = RewardOptions(position=0.5, prefix=2.0, hit=0.0, distinct=4.0, likelihood=0.25, length=-1.0)
    by_hand = 0.5 * 3 + 2.0 * 3 + 4.0 * (2 - 1) / 2 + 0.25 * -2.0 - 0.75
    assert options.total(where) == pytest.approx(by_hand)
    assert "hit" not in options.weighed and options.weighed["length"] == -1.0
    assert RewardOptions().total(where) == 3.0


def test_weights_of_nothing_but_0_are_refused_with_what_there_is():
    with pytest.raises(InputError, match="all weights are 0; give one of position, prefix, hit"):
        read_options(RewardOptions, {"position": 0}, "rewards")
    assert read_options(RewardOptions, {"position": 0, "hit": 1}, "rewards").weighed == {"hit": 1.0}
    assert RewardOptions(position=0.0, length=-0.5).weighed == {"length": -0.5}, "a punishment is a weight"


def test_an_unknown_reward_is_refused_with_the_nearest_one():
    with pytest.raises(InputError, match=r"unknown option rewards\.rankd_hit; did you mean rewards\.ranked_hit\?"):
        read_options(RewardOptions, {"rankd_hit": 1.0}, "rewards")
