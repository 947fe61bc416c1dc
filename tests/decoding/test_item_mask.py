import numpy as np
import pytest
import torch

from recbole_think.corpus.histories import from_pairs
from recbole_think.decoding.allowed import Allowed, allowed_items
from recbole_think.decoding.beam import beam_search
from recbole_think.decoding.item_mask import ItemMask, cells_of
from recbole_think.decoding.trie import SidTrie
from recbole_think.errors import InputError
from recbole_think.prompts.batching import prompt_batch
from recbole_think.stages.rollout import Asked, masked_items
from tests.small import WORDS, distinct_codes, plain_qwen, tokens_of_levels

SIZES, N, USERS = (4, 4, 4), 20, 3
TOKENS = tokens_of_levels(SIZES)
CODES = torch.from_numpy(distinct_codes(N, SIZES, 0))
TRIE = SidTrie(CODES)


def table(share, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).random((USERS, N)) < share)


def cells(mask, free=False):
    """The same mask as cells, in no order and some of them twice."""
    users, items = (~mask if free else mask).nonzero(as_tuple=True)
    order = torch.cat([torch.randperm(len(users)), torch.arange(len(users) // 2)])
    return ItemMask(users[order], items[order], tuple(mask.shape), free)


def ranked(mask, prefix=None, beams=N):
    prompts = [np.random.default_rng(user).integers(1, WORDS, length) for user, length in enumerate((7, 2, 5))]
    model = plain_qwen(WORDS + sum(SIZES), attention="sdpa", seed=0)
    return beam_search(model, *prompt_batch(prompts, 0), TRIE, TOKENS, beams, "level", prefix, mask)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("free", [False, True], ids=["masked", "free"])
def test_cells_and_table_give_the_same_lists(share, free):
    mask = table(share)
    mask[:, 3] = False  # something is left for everybody
    one, other = ranked(mask), ranked(cells(mask, free))
    assert (one.items == other.items).all() and (one.scores == other.scores).all()
    for user in range(USERS):
        assert set(one.items[user].tolist()) - {-1} == set((~mask[user]).nonzero().flatten().tolist())


@pytest.mark.parametrize("free", [False, True], ids=["masked", "free"])
def test_prefixes_leave_the_same_items_under_cells_as_under_a_table(free):
    mask = table(0.4, seed=1)
    prefix = [CODES[[0, 0, 5], :1], CODES[[2, 9], :2], CODES[:, :1]]
    below = torch.zeros(USERS, N, dtype=torch.bool)
    for user, codes in enumerate(prefix):
        for begin in codes:
            below[user] |= (CODES[:, : len(begin)] == begin).all(1)
    mask[1, 2], mask[0, 0] = False, False  # something is left for everybody
    expected = [set((row & ~masked).nonzero().flatten().tolist()) for row, masked in zip(below, mask, strict=True)]
    for given in (mask, cells(mask, free)):
        found = ranked(given, prefix).items.tolist()
        assert [set(items) - {-1} for items in found] == expected


def test_a_user_with_nothing_left_is_named():
    mask = table(0.3)
    mask[2] = True
    for given in (mask, cells(mask), cells(mask, free=True)):
        with pytest.raises(InputError, match="row 2: every item is masked"):
            allowed_items(TRIE, USERS, None, given)
    below = (CODES[:, 0] == CODES[0, 0]).expand(USERS, N)
    with pytest.raises(InputError, match="row 0: every item is masked"):
        allowed_items(TRIE, USERS, [CODES[:1, :1]] * USERS, cells(below))


def test_a_table_becomes_the_cells_of_the_smaller_side():
    few, many = cells_of(table(0.1)), cells_of(table(0.9))
    assert not few.free and many.free
    assert len(few.items) == int(table(0.1).sum()) and len(many.items) == int((~table(0.9)).sum())
    given = cells(table(0.5))
    assert cells_of(given) is given


def test_users_are_repeated_side_by_side():
    mask = table(0.3)
    often = cells(mask).repeated(4)
    assert often.shape == (4 * USERS, N)
    assert (often.keys() == cells_of(mask.repeat_interleave(4, 0)).keys()).all()


def test_a_history_costs_its_own_length_and_an_item_met_twice_counts_once():
    users, items = torch.tensor([0, 0, 0, 2]), torch.tensor([4, 4, 7, 1])
    allowed = Allowed(TRIE, ItemMask(users, items, (USERS, N)))
    assert len(allowed.listed) == 3
    leaves = torch.arange(N).expand(USERS, N)
    named = [set(TRIE.items[row].tolist()) for row in allowed.alive(3, leaves)]
    assert named == [set(range(N)) - {4, 7}, set(range(N)), set(range(N)) - {1}]


@pytest.mark.parametrize("free", [False, True], ids=["masked", "free"])
def test_a_mask_is_cut_to_some_users_in_any_order(free):
    mask = table(0.3)
    rows = [2, 0]
    cut = cells(mask, free).chosen(rows)
    wanted = cells(mask[rows], free)
    assert cut.shape == wanted.shape and cut.free == free and cut.keys().tolist() == wanted.keys().tolist()


def test_a_mask_of_other_sizes_is_refused():
    with pytest.raises(InputError, match="item_mask is"):
        ranked(ItemMask(torch.tensor([0]), torch.tensor([0]), (USERS, N - 1)))


def test_histories_of_prompts_become_cells():
    ids = np.array([1])
    asked = [Asked(ids, 1, np.array(items, np.int64)) for items in ([3, 1, 3], [], [20])]
    mask = masked_items(asked, N)
    assert mask.shape == (3, N) and mask.keys().tolist() == [0, 2, 2 * N + 19]
    assert masked_items([asked[1]], N) is None


def test_histories_that_may_not_be_repeated_become_cells_of_the_users_asked_for():
    from recbole_think.generative import GenerativeRecommender

    class Model(GenerativeRecommender):
        def __init__(self):
            torch.nn.Module.__init__(self)
            self.n_items = N + 1
            self.item_mask = from_pairs(np.array([1, 1, 2, 3]), np.array([5, 9, 1, 20]), 4)

    mask = Model().mask_of(np.array([3, 1]))
    assert mask.shape == (2, N) and mask.keys().tolist() == [19, N + 4, N + 8]
