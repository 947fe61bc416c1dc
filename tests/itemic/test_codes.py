import math

import numpy as np
import pytest

from recbole_think.errors import InputError
from recbole_think.itemic.codes import Codes, collision_rate, health, packed


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_a_table_comes_back_as_it_was_saved(tmp_path):
    codes = Codes(np.array([[0, 4], [1, 0], [2, 3]]), (3, 5))
    codes.save(tmp_path / "deep" / "codes.safetensors")
    again = Codes.load(tmp_path / "deep" / "codes.safetensors")
    assert (again.table == codes.table).all() and again.table.dtype == np.int64
    assert again.sizes == (3, 5) and again.levels == 2


@pytest.mark.parametrize(
    ("table", "sizes"),
    [([[0, 3]], (3, 3)), ([[-1, 0]], (3, 3)), ([[0, 1]], (3, 3, 3)), ([0, 1], (3, 3)), ([[3, 0]], (3, 3))],
)
def test_codes_outside_their_level_are_refused(table, sizes):
    with pytest.raises(InputError, match="codes"):
        Codes(np.array(table), sizes)


def test_the_collision_rate_counts_every_item_that_shares_its_codes():
    assert collision_rate(np.array([[0, 0], [0, 1], [0, 0], [1, 0], [0, 0]])) == pytest.approx(3 / 5)
    assert collision_rate(np.array([[0, 0], [0, 1]])) == 0


def test_health_of_a_table_made_by_hand_is_exact():
    table = np.array([[0, 0], [0, 1], [1, 0], [1, 1], [1, 2], [2, 0], [2, 1], [2, 3]])
    raw = np.array([[0, 0], [0, 0], [1, 0], [1, 1], [1, 1], [2, 0], [2, 0], [2, 0]])
    categories = ["x", "x", "x", "y", "y", "z", "z", None]
    figures = health(Codes(table, (4, 4)), raw, categories)
    # level 1: codes 0, 1, 2 of 4 with shares 2/8, 3/8, 3/8; level 2: all four codes with shares 3/8, 3/8, 1/8, 1/8
    first = -(2 / 8 * math.log(2 / 8) + 2 * 3 / 8 * math.log(3 / 8)) / math.log(4)
    second = -(2 * 3 / 8 * math.log(3 / 8) + 2 * 1 / 8 * math.log(1 / 8)) / math.log(4)
    assert figures["levels"] == [
        {"used": 3 / 4, "entropy": pytest.approx(first, abs=5e-5)},
        {"used": 1.0, "entropy": pytest.approx(second, abs=5e-5)},
    ]
    assert figures["collisions_before"] == pytest.approx(7 / 8)
    assert figures["collisions_after"] == 0
    # no prefix: x is the largest category, 3 of 8; first code: 2 of {x x}, 2 of {x y y}, 2 of {z z None}
    # two codes name one item each here, of which a purity would say nothing
    assert figures["category_purity"] == {"first_0": 3 / 8, "first_1": 6 / 8}


def test_evenly_used_codes_have_entropy_one_and_a_single_code_zero():
    even = health(Codes(np.array([[0, 0], [1, 0], [2, 0]]), (3, 2)), np.zeros((3, 2)), [None] * 3)
    assert [level["entropy"] for level in even["levels"]] == [1.0, 0.0]
    assert even["levels"][1]["used"] == 0.5
    assert "category_purity" not in even, "a data set without categories has no purity"


@pytest.mark.parametrize("sizes", [(3, 4, 5), (2**20, 2**20, 2**20), (2**21, 2**21, 2**21)], ids=str)
def test_codes_packed_into_numbers_are_as_different_and_in_the_same_order_as_their_rows(sizes):
    dice = np.random.default_rng(0)
    table = np.stack([dice.choice([0, 1, size - 1], 50) for size in sizes], axis=1)
    keys = packed(table, sizes)
    rows = [tuple(row) for row in table.tolist()]
    assert sorted(range(50), key=lambda i: (rows[i], i)) == np.argsort(keys, kind="stable").tolist()
    assert len(set(keys.tolist())) == len(set(rows))
