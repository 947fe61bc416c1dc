import tracemalloc

import numpy as np
import pytest
import torch

from recbole_think.decoding.allowed import Allowed
from recbole_think.decoding.trie import SidTrie
from recbole_think.errors import InputError
from tests.small import distinct_codes

TABLES = [(1, (3,), 0), (3, (3,), 1), (20, (4, 4, 4), 2), (64, (4, 4, 4), 3), (50, (2, 30, 3), 4), (9, (2, 2, 2, 2), 5)]


def random_trie(n, sizes, seed):
    table = distinct_codes(n, sizes, seed)
    return table, SidTrie(torch.from_numpy(table))


def prefixes(table, length):
    """Distinct prefixes in lexicographic order: node j of level ``length`` is the j-th of them."""
    return sorted({tuple(row[:length]) for row in table.tolist()})


@pytest.mark.parametrize(("n", "sizes", "seed"), TABLES)
def test_children_are_those_of_a_dictionary_of_prefixes(n, sizes, seed):
    table, trie = random_trie(n, sizes, seed)
    for level in range(len(sizes)):
        nodes, below = prefixes(table, level), prefixes(table, level + 1)
        child, exists = trie.children(level, torch.arange(len(nodes))[None])
        assert child.shape == exists.shape == (1, len(nodes), trie.widest(level))
        for number, node in enumerate(nodes):
            found = child[0, number][exists[0, number]]
            wanted = [j for j, prefix in enumerate(below) if prefix[:-1] == node]
            assert found.tolist() == wanted
            assert trie.codes[level][found].tolist() == [below[j][-1] for j in wanted]
        assert trie.widest(level) == max(sum(prefix[:-1] == node for prefix in below) for node in nodes)


@pytest.mark.parametrize(("n", "sizes", "seed"), TABLES)
def test_a_leaf_is_the_item_with_its_codes(n, sizes, seed):
    table, trie = random_trie(n, sizes, seed)
    leaves = prefixes(table, len(sizes))
    assert [tuple(table[item]) for item in trie.item(torch.arange(n))] == leaves


@pytest.mark.parametrize(("n", "sizes", "seed"), TABLES)
def test_the_span_of_a_node_holds_the_items_below_it_and_no_other(n, sizes, seed):
    table, trie = random_trie(n, sizes, seed)
    assert torch.equal(trie.places[trie.items.long()], torch.arange(n, dtype=torch.int32))
    for level in range(len(sizes) + 1):
        nodes = prefixes(table, level)
        begin, end = trie.span(level, torch.arange(len(nodes)))
        for node, first, behind in zip(nodes, begin.tolist(), end.tolist(), strict=True):
            wanted = [row for row in range(n) if tuple(table[row, :level]) == node]
            assert sorted(trie.items[first:behind].tolist()) == wanted


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 1.0])
@pytest.mark.parametrize(("n", "sizes", "seed"), TABLES)
def test_a_node_is_alive_while_one_of_its_items_may_be_named(n, sizes, seed, share):
    table, trie = random_trie(n, sizes, seed)
    mask = torch.from_numpy(np.random.default_rng(seed).random((5, n)) < share)
    mask[1], mask[2] = False, True
    allowed = Allowed(trie, mask)
    for level in range(len(sizes) + 1):
        nodes = prefixes(table, level)
        alive = allowed.alive(level, torch.arange(len(nodes)).expand(5, -1))
        for user in range(5):
            open_items = [tuple(table[item]) for item in range(n) if not mask[user, item]]
            assert alive[user].tolist() == [any(item[:level] == node for item in open_items) for node in nodes]


def test_alive_keeps_the_shape_it_is_asked_in():
    _, trie = random_trie(20, (4, 4, 4), 0)
    allowed = Allowed(trie, torch.zeros(2, 20, dtype=torch.bool))
    assert allowed.alive(1, torch.zeros(2, 3, 4, dtype=torch.int64)).shape == (2, 3, 4)


@pytest.mark.parametrize("masked", [50, 99_950])
def test_what_is_masked_costs_by_the_length_of_a_history_not_by_the_catalogue(masked):
    _, trie = random_trie(100_000, (64, 64, 64), 0)
    mask = torch.zeros(4, trie.n, dtype=torch.bool)
    mask[:, torch.randperm(trie.n, generator=torch.Generator().manual_seed(0))[:masked]] = True
    assert len(Allowed(trie, mask).listed) == 4 * 50


def test_building_needs_little_beside_the_trie():
    codes = torch.from_numpy(distinct_codes(100_000, (64, 64, 64)))
    tracemalloc.start()
    trie = SidTrie(codes)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3 * trie.nbytes


def test_two_items_with_the_same_codes_are_refused_by_their_ids():
    codes = torch.tensor([[5, 1], [2, 2], [0, 1], [2, 2]])
    with pytest.raises(InputError, match="items 2 and 4 have the same codes"):
        SidTrie(codes)


@pytest.mark.parametrize("codes", [torch.zeros(0, 3, dtype=torch.int64), torch.zeros(4, dtype=torch.int64)])
def test_a_table_that_is_no_table_is_refused(codes):
    with pytest.raises(InputError, match="needs codes"):
        SidTrie(codes)


def test_a_negative_code_is_refused():
    with pytest.raises(InputError, match="item 2 has the code -1"):
        SidTrie(torch.tensor([[0, 1], [-1, 2], [-7, 0]]))


@pytest.mark.parametrize("n", [1000, 100_000])
def test_an_item_costs_a_few_bytes_however_many_there_are(n):
    flat = torch.randperm(1_000_000, generator=torch.Generator().manual_seed(0))[:n]
    codes = torch.stack([flat // 10_000, flat // 100 % 100, flat % 100], dim=1)
    trie = SidTrie(codes)
    assert trie.nbytes <= 25 * n
    assert sorted(trie.items.tolist()) == list(range(n))
    leaves = torch.arange(n)
    assert torch.equal(codes[trie.item(leaves)][:, -1], trie.codes[-1].long())


def test_codes_too_large_for_two_bytes_keep_their_value():
    trie = SidTrie(torch.tensor([[40_000], [7], [70_000]]))
    child, exists = trie.children(0, torch.zeros(1, 1, dtype=torch.int64))
    assert trie.codes[0][child][exists].tolist() == [7, 40_000, 70_000]
    assert trie.item(child[exists]).tolist() == [1, 0, 2]
