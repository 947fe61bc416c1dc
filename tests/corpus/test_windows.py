import itertools
from collections import Counter

import numpy as np
import pytest

from recbole_think.corpus.histories import from_pairs, spans, windows


def random_histories(lengths):
    """One user per length, every event an item of its own, so that a transition says where it comes from."""
    users = np.repeat(np.arange(1, len(lengths) + 1), lengths)
    return from_pairs(users, np.arange(1, len(users) + 1), len(lengths) + 1)


LENGTHS = [0, 1, 2, 3, 4, 5, 6, 7, 11, 12, 13, 30, 47]


@pytest.mark.parametrize("longest", [2, 3, 4, 6, 50])
@pytest.mark.parametrize("seed", range(5))
def test_every_transition_is_in_exactly_one_window_and_no_window_is_too_long(longest, seed):
    histories = random_histories(LENGTHS)
    cut = list(windows(histories, longest, np.random.default_rng(seed)))
    found = Counter(pair for window in cut for pair in zip(window[:-1].tolist(), window[1:].tolist(), strict=True))
    wanted = Counter()
    for user in range(1, histories.n_users):
        history = histories.of(user).tolist()
        wanted.update(itertools.pairwise(history))
    assert found == wanted
    assert all(2 <= len(window) <= longest for window in cut)


def test_a_history_that_fits_is_one_window():
    histories = random_histories([4, 6])
    cut = sorted(window.tolist() for window in windows(histories, 6, np.random.default_rng(0)))
    assert cut == [[1, 2, 3, 4], [5, 6, 7, 8, 9, 10]]


def test_windows_are_as_few_as_the_first_cut_allows():
    histories = random_histories([47])
    for seed in range(20):
        cut = list(windows(histories, 6, np.random.default_rng(seed)))
        lengths = sorted((w[0], len(w)) for w in cut)
        assert all(length == 6 for _, length in lengths[1:-1]), "only the first and the last may be short"


def test_epochs_cut_elsewhere_and_come_in_another_order_and_a_seed_repeats():
    histories = random_histories([30, 30, 30, 30])
    one, again, other = ([w.tolist() for w in windows(histories, 6, np.random.default_rng([7, e]))] for e in (0, 0, 1))
    assert one == again
    assert {tuple(w) for w in one} != {tuple(w) for w in other}
    assert one != sorted(one), "shuffled"
    firsts = {
        next(len(w) for w in windows(histories, 6, np.random.default_rng(seed)) if w[0] == 1) for seed in range(60)
    }
    assert firsts == {2, 3, 4, 5, 6}, "the first cut falls everywhere"


def test_the_padding_user_is_no_history():
    histories = from_pairs(np.array([0, 0, 0, 1, 1]), np.array([1, 2, 3, 4, 5]), 2)
    assert [w.tolist() for w in windows(histories, 5, np.random.default_rng(0))] == [[4, 5]]


def test_spans_cut_what_lies_beside_the_items_where_windows_cut_the_items():
    histories = random_histories(LENGTHS)
    beside = -histories.items
    cut = zip(*(make(histories, 6, np.random.default_rng(3)) for make in (spans, windows)), strict=True)
    assert all((beside[span] == -window).all() for span, window in cut)
