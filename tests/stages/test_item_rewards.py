import pytest

from recbole_think.stages.item_rewards import REWARDS, Listed, found

DISCOUNTS = [1.0, 0.6309298, 0.5, 0.4306766]  # 1 / log2(2), 1 / log2(3), 1 / log2(4), 1 / log2(5)


def of_list(name, right, length=4):
    return [REWARDS[name](Listed(place, length, right)) for place in range(length)]


def test_the_target_is_rewarded_and_what_stands_with_it_is_punished_by_rank():
    total = sum(DISCOUNTS)  # 2.5616064
    assert of_list("hit", right=1) == [0, 1, 0, 0]
    assert of_list("rank", right=1) == pytest.approx([-1 / total, 0, -0.5 / total, -0.4306766 / total])
    assert of_list("rank", right=1) == pytest.approx([-0.3903800, 0, -0.1951900, -0.1681275], abs=1e-6)
    assert of_list("rank", right=0)[1:] == pytest.approx([-part / total for part in DISCOUNTS[1:]])


def test_a_list_without_the_target_tells_nothing():
    assert of_list("hit", right=-1) == of_list("rank", right=-1) == [0, 0, 0, 0]
    assert [found(Listed(place, 4, -1)) for place in range(4)] == [0] * 4
    assert [found(Listed(place, 4, 2)) for place in range(4)] == [1] * 4
