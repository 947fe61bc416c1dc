import numpy as np
import pytest
import torch

from recbole_think.decoding.ranking import full_sort_scores, illegal_answers


def test_the_score_table_sorts_back_into_the_lists():
    lists = [[3, 1, 4], [2], [], [5, 4, 3, 2, 1]]
    table = full_sort_scores(lists, 6)
    assert table.shape == (4, 6) and table.dtype == torch.float32
    for row, wanted in zip(table, lists, strict=True):
        found = row.argsort(descending=True)[: len(wanted)].tolist()
        assert found == wanted
        assert row.isneginf().sum() == 6 - len(wanted), "what was not named stays unranked"


def test_padding_is_never_ranked():
    assert full_sort_scores([[1, 2]], 4)[:, 0].isneginf().all()


@pytest.mark.parametrize("items", [[1, 2, 1], [0, 3], [2, 0]])
def test_a_list_with_padding_or_a_repetition_is_refused_by_its_row(items):
    with pytest.raises(ValueError, match="row 1"):
        full_sort_scores([[1, 2], items], 5)


@pytest.mark.parametrize("item", [7, -1])
def test_an_item_beyond_the_catalogue_is_refused(item):
    with pytest.raises((ValueError, IndexError)):
        full_sort_scores([[1, item]], 5)


def test_answers_are_illegal_when_their_codes_are_not_those_of_the_item():
    table = np.array([[0, 0], [0, 1], [1, 0]])
    items = torch.tensor([[0, 2, -1], [1, 1, 0]])
    codes = torch.tensor([[[0, 0], [1, 1], [9, 9]], [[0, 1], [1, 1], [0, 0]]])
    assert illegal_answers(codes, items, table) == (2, 5), "the place after the end is no answer"


def test_no_answers_are_none_illegal():
    assert illegal_answers(torch.zeros(1, 2, 2, dtype=torch.int64), torch.tensor([[-1, -1]]), np.ones((3, 2))) == (0, 0)
