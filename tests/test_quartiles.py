import math

import pytest

from recbole_think.quartiles import by_quarter

HEAD = "user_id\trank\trank_other_masking\thistory_length\ttarget_count\n"


def ranks(path, rows):
    """Write a ranks.tsv of (rank, history length) pairs; the target counts run the other way."""
    lines = [f'u"{number}\t{rank}\t0\t{length}\t{100 - length}\n' for number, (rank, length) in enumerate(rows)]
    path.write_text(HEAD + "".join(lines))
    return path


EIGHT = [(1, 1), (0, 2), (3, 3), (3, 4), (11, 5), (0, 6), (1, 7), (1, 8)]  # 5 of 8 within ten


def test_each_quarter_has_its_own_mean_and_standard_error(tmp_path):
    groups = by_quarter(ranks(tmp_path / "r", EIGHT), "history_length", 10, recall=5 / 8)
    assert [(group.low, group.high, group.users) for group in groups] == [(1, 2, 2), (3, 4, 2), (5, 6, 2), (7, 8, 2)]
    assert [group.recall[0] for group in groups] == [0.5, 1, 0, 1]
    assert [group.ndcg[0] for group in groups] == pytest.approx([0.5, 1 / math.log2(4), 0, 1])
    # of 0 and 1: standard deviation sqrt(1/2), over sqrt(2) users
    assert [group.recall[1] for group in groups] == pytest.approx([0.5, 0, 0, 0])


def test_the_other_kind_of_group_is_read_from_its_own_column(tmp_path):
    groups = by_quarter(ranks(tmp_path / "r", EIGHT), "target_count", 10, recall=5 / 8)
    assert [(group.low, group.high) for group in groups] == [(92, 93), (94, 95), (96, 97), (98, 99)]
    assert [group.recall[0] for group in groups] == [1, 0, 1, 0.5]


def test_a_shorter_list_counts_fewer_hits(tmp_path):
    groups = by_quarter(ranks(tmp_path / "r", EIGHT), "history_length", 2, recall=3 / 8)
    assert [group.recall[0] for group in groups] == [0.5, 0, 0, 1]


def test_equal_values_stay_together(tmp_path):
    groups = by_quarter(ranks(tmp_path / "r", [(1, 3)] * 6 + [(0, 9)] * 2), "history_length", 10, recall=6 / 8)
    assert [(group.low, group.high, group.users, group.recall[0]) for group in groups] == [(3, 3, 6, 1), (9, 9, 2, 0)]
    [single] = by_quarter(ranks(tmp_path / "r", [(1, 3)] * 4), "history_length", 10, recall=1)
    assert (single.low, single.high, single.users) == (3, 3, 4)


def test_what_the_ranks_do_not_tell_is_left_out(tmp_path):
    assert by_quarter(tmp_path / "gone", "history_length", 10, 0.5) == []
    path = ranks(tmp_path / "r", EIGHT)
    assert by_quarter(path, "history_length", 10, None) == []
    assert by_quarter(path, "history_length", 10, 0.3) == [], "several targets per user: one rank says too little"
    path.write_text("user_id\trank\trank_other_masking\nu\t1\t1\n")
    assert by_quarter(path, "history_length", 10, 1.0) == [], "a record of before"
