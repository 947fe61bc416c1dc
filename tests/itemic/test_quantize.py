import itertools

import numpy as np
import pytest

from recbole_think.errors import InputError
from recbole_think.itemic.options import ItemicOptions, shape
from recbole_think.itemic.quantize import Quantizer, residual_kmeans


def planted(seed=0):
    """Items made of one of 3 far places, one of 2 near shifts, and a breath of noise: codes that can be known."""
    dice = np.random.default_rng(seed)
    places, shifts = np.array([[0, 0], [100, 0], [0, 100.0]]), np.array([[-5, -5], [5, 5.0]])
    far, near = dice.integers(0, 3, 60), dice.integers(0, 2, 60)
    vectors = places[far] + shifts[near] + dice.normal(0, 0.1, (60, 2))
    return vectors.astype(np.float32), far, near


def same_grouping(one, other):
    pairs = set(zip(one, other, strict=True))
    return len(pairs) == len(set(one)) == len(set(other))


def rebuilt(quantizer, codes):
    return sum(centres[codes[:, level]] for level, centres in enumerate(quantizer.centres[: codes.shape[1]]))


def test_planted_clusters_become_codes():
    vectors, far, _ = planted()
    codes = residual_kmeans(vectors, 1, 3, seed=0).nearest(vectors)
    assert codes.shape == (60, 1) and codes.dtype == np.int64
    assert same_grouping(codes[:, 0], far)


def test_the_second_level_clusters_what_the_first_left_over():
    vectors, far, near = planted()
    quantizer = residual_kmeans(vectors, 2, 3, seed=0)
    codes = quantizer.nearest(vectors)
    assert same_grouping(codes[:, 0], far)
    error = np.abs(vectors - rebuilt(quantizer, codes)).max()
    assert error < 3, "both the place and the shift are told"
    groups = {(place, shift): set() for place in range(3) for shift in range(2)}
    for place, shift, code in zip(far, near, map(tuple, codes), strict=True):
        groups[place, shift].add(code)
    assert len({next(iter(group)) for group in groups.values()}) == 6, "the six kinds of item are told apart"
    assert not set.intersection(*groups.values())


def test_every_level_leaves_less_over():
    vectors = np.random.default_rng(1).normal(size=(200, 8)).astype(np.float32)
    quantizer = residual_kmeans(vectors, 4, 8, seed=0)
    codes = quantizer.nearest(vectors)
    errors = [((vectors - rebuilt(quantizer, codes[:, :depth])) ** 2).mean() for depth in range(1, 5)]
    assert errors[0] < (vectors**2).mean()
    assert all(later < earlier for earlier, later in itertools.pairwise(errors))


def test_nearest_takes_the_nearest_centre_level_by_level():
    quantizer = Quantizer([np.array([[0.0], [10.0]], np.float32), np.array([[-1.0], [0.0], [2.0]], np.float32)])
    vectors = np.array([[1.9], [9.0], [10.2], [-5.0]], np.float32)
    assert quantizer.nearest(vectors).tolist() == [[0, 2], [1, 0], [1, 1], [0, 0]]


def test_the_same_seed_gives_the_same_codes():
    vectors = np.random.default_rng(1).normal(size=(80, 6)).astype(np.float32)
    one, two, other = (residual_kmeans(vectors, 2, 8, seed).nearest(vectors) for seed in (3, 3, 4))
    assert (one == two).all() and (one != other).any()


def test_fewer_items_than_codes_of_a_level_is_an_input_error():
    with pytest.raises(InputError, match=r"itemic\.size=8 .* the catalogue has 5"):
        residual_kmeans(np.zeros((5, 2), np.float32), 1, 8, 0)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_vectors_that_are_no_numbers_are_an_input_error(bad):
    vectors = np.zeros((10, 2), np.float32)
    vectors[4, 1] = bad
    with pytest.raises(InputError, match="NaN or infinity"):
        residual_kmeans(vectors, 1, 2, 0)


@pytest.mark.parametrize("n", [*range(2, 40), 1682, 2048, 2049, 12_101, 8_388_608, 8_388_609, 20_000_000])
def test_the_automatic_shape_has_a_code_for_every_item_and_no_more_codes_on_a_level_than_items(n):
    levels, size = shape(ItemicOptions(), n)
    assert size**levels >= n and size <= n


@pytest.mark.parametrize(("levels", "size"), [(3, 0), (0, 4), (5, 7), (1, 0)])
def test_what_is_asked_for_is_not_automatic_and_the_rest_still_fits(levels, size):
    n = 16
    found_levels, found_size = shape(ItemicOptions(levels=levels, size=size), n)
    assert (levels or found_levels, size or found_size) == (found_levels, found_size)
    assert found_size**found_levels >= n and found_size <= n


@pytest.mark.parametrize(
    "wrong",
    [
        {"levels": -1}, {"levels": 27}, {"size": 1}, {"size": -4}, {"collisions": "ignore"}, {"text_weight": -1.0},
        {"text_weight": 0.0, "collaborative_weight": 0.0}, {"vector_files": ("a.npy",), "vector_weights": (1.0, 2.0)},
        {"text_weight": 0.0, "collaborative_weight": 0.0, "vector_files": ("a.npy",), "vector_weights": (0.0,)},
        {"collaborative_weight": float("nan")}, {"collaborative_size": 0}, {"collaborative_window": 0},
    ],
    ids=str,
)  # fmt: skip
def test_options_that_make_no_sense_are_refused(wrong):
    with pytest.raises(InputError, match="itemic"):
        ItemicOptions(**wrong)
