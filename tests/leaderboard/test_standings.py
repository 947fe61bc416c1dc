"""How rows stand, from results written by hand: every number can be said beforehand."""

import csv
import math

import numpy as np
import pytest
import torch

from recbole_think.artifacts import save_tensors
from recbole_think.errors import InputError
from recbole_think.leaderboard import compare as comparing
from recbole_think.leaderboard.__main__ import main
from recbole_think.leaderboard.board import Board
from recbole_think.leaderboard.compare import compare, read_side
from recbole_think.leaderboard.page import write_pages
from recbole_think.leaderboard.ranks import file_name
from recbole_think.leaderboard.reported import reported
from recbole_think.leaderboard.rows import COLUMNS
from recbole_think.leaderboard.standings import Standing, standings
from recbole_think.paired import bootstrap_p, interval, of_ranks
from tests.browser import opened as in_browser
from tests.pages import EVIL

USERS = 400


def write_results(folder, rows, fingerprint="f"):
    """Results of ``{row: {seed: masked ranks}}``; unmasked nobody is found."""
    lines = []
    for row, seeds in rows.items():
        for seed, ranks in seeds.items():
            for masked in (True, False):
                found = of_ranks(np.array(ranks) * masked, (5, 10))
                lines.append({
                    **dict.fromkeys(COLUMNS, ""), "row": row, "model": row,
                    "seed": seed, "mask_history": masked, "think": False, "command": "c",
                    "seconds_train": 60 * seed, "seconds_eval": 2, "parameters": 1000, "data_fingerprint": fingerprint,
                    **{name: values.mean() for name, values in found.items()},
                })  # fmt: skip
            ranked = torch.tensor(ranks, dtype=torch.int16)
            save_tensors(folder / "toy" / f"{file_name(row, seed)}.safetensors", {"masked": ranked, "free": ranked * 0})
    about = {"history_length": torch.arange(len(ranks)) % 40, "target_count": torch.arange(len(ranks)) // 40}
    save_tensors(folder / "toy" / "users.safetensors", {name: values.int() for name, values in about.items()})
    with (folder / "toy.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(lines[0]))
        writer.writeheader()
        writer.writerows(lines)
    return folder / "toy.csv"


@pytest.fixture
def path(tmp_path):
    good, bad = [1] * 200 + [0] * 200, [2] * 100 + [0] * 300
    return write_results(tmp_path, {"bad": {1: bad}, "good": {1: good, 2: [0] * 200 + [1] * 200}})


def test_a_row_names_every_machine_its_seeds_were_made_on():
    lines = [{"hardware": "A"}, {"hardware": "B"}, {"hardware": "A"}, {}]
    assert Standing("row", lines, {}).machine == "A; B; not noted"


def test_rows_stand_by_their_mean_over_seeds_and_users(path):
    good, bad = standings(path, masked=True).rows
    assert (good.row, bad.row) == ("good", "bad")
    assert good.mean("ndcg@10") == 0.5 and bad.mean("ndcg@10") == pytest.approx(0.25 / math.log2(3))
    assert good.seeds == [1, 2] and good.seed_error("ndcg@10") == 0 and bad.seed_error("ndcg@10") is None
    assert good.cost("seconds_train") == 90 and bad.cost("seconds_train") == 60
    assert good.intervals["ndcg@10"] == (0.5, 0.5), "over both seeds every user has the same half"
    low, high = bad.intervals["recall@10"]
    spread = math.sqrt(0.25 * 0.75 / USERS)
    assert low == pytest.approx(0.25 - 1.96 * spread, abs=0.004) and high == pytest.approx(
        0.25 + 1.96 * spread, abs=0.004
    )
    assert all(row.mean("ndcg@10") == 0 for row in standings(path, masked=False).rows)


def test_overlap_is_the_share_of_one_rows_users_that_another_serves_too(tmp_path):
    path = write_results(tmp_path, {"a": {1: [1, 1, 1, 1, 0, 0]}, "b": {1: [0, 0, 1, 9, 11, 0]}, "c": {1: [0] * 6}})
    found = standings(path, masked=True)
    assert [row.row for row in found.rows] == ["a", "b", "c"]
    assert found.overlap().tolist() == [[1, 0.5, 0], [1, 1, 0], [0, 0, 0]]


def test_quarters_of_users_are_equal_parts_and_their_means_their_own(path):
    good, _ = standings(path, masked=True).rows
    parts = good.by_quarter(np.arange(USERS))
    assert [(low, high, users) for low, high, users, *_ in parts] == [
        (0, 99, 100), (100, 199, 100), (200, 299, 100), (300, 399, 100)
    ]  # fmt: skip
    assert all(mean == 0.5 and error == 0 for *_, mean, error in parts)


def test_a_bootstrap_interval_is_that_of_the_normal_distribution_for_many_users():
    values = np.random.default_rng(0).normal(3, 2, size=900)
    low, high = interval(values, seed=1)
    error = values.std() / 30
    assert low == pytest.approx(values.mean() - 1.96 * error, abs=0.01)
    assert high == pytest.approx(values.mean() + 1.96 * error, abs=0.01)


def test_two_rows_are_compared_user_by_user(path, monkeypatch, capsys):
    monkeypatch.setattr(comparing, "results_path", lambda name: path)
    one, other = read_side("good", "toy", True), read_side("bad", "toy", True)
    told = compare(one, other)
    gain = one.metrics["ndcg@10"] - other.metrics["ndcg@10"]
    assert f"{gain.mean():+.4f}" in told and "better for 300 users, worse for 100, the same for 0" in told
    assert f"{bootstrap_p(one.metrics['ndcg@10'], other.metrics['ndcg@10'], 0):.4f}" in told
    assert f"{gain.mean() / gain.std(ddof=1):+.3f}" in told, "effect size"
    assert main(["compare", "good", "bad", "--board=toy"]) == 0
    assert capsys.readouterr().out.startswith("good against bad, 400 users")
    assert main(["compare", "good", "good one", "--board=toy"]) == 2
    assert "neither the folder of a finished run nor a row" in capsys.readouterr().err


def test_the_same_row_twice_is_no_difference(path, monkeypatch):
    monkeypatch.setattr(comparing, "results_path", lambda name: path)
    told = compare(read_side("good", "toy", True), read_side("good", "toy", True))
    assert "better for 0 users, worse for 0, the same for 400" in told and "1.0000" in told


def test_rows_of_other_data_are_not_compared(path, tmp_path, monkeypatch):
    monkeypatch.setattr(comparing, "results_path", lambda name: path)
    one = read_side("good", "toy", True)
    (tmp_path / "far").mkdir()
    elsewhere = write_results(tmp_path / "far", {"good": {1: [1] * USERS}}, fingerprint="g")
    monkeypatch.setattr(comparing, "results_path", lambda name: elsewhere)
    with pytest.raises(InputError, match="tested on split f, good on g"):
        compare(one, read_side("good", "toy", True))


def test_the_page_opens_in_a_browser_without_a_problem_and_says_everything(tmp_path):
    path = write_results(tmp_path, {"a" + EVIL: {1: [1] * 40}, "b": {1: [0] * 20 + [3] * 20}})
    board = Board("toy", f"A toy {EVIL}", "toy", (), quick=True)
    failed = [{"row": f"c {EVIL}", "reason": "it was wrong", "log": "c-1.log"}]
    _, told, page = write_pages(board, path, failed, ["d, seed 1"])
    text = told.read_text()
    assert "1.0000" in text and "it was wrong" in text and "d, seed 1" in text and "not results" in text
    seen = in_browser(page)
    assert seen.problems == [] and seen.requests == [f"/{page.name}"]
    names = ("ranking", "training", "answers", "history", "target", "overlap")
    assert sorted(seen.drawn) == sorted(f"chart-{masked}-{name}" for masked in ("masked", "free") for name in names)


def test_a_board_without_rows_has_a_page_too(tmp_path):
    board = Board("toy", "A toy", "toy", (), quick=False)
    _, told, page = write_pages(board, tmp_path / "toy.csv", [], ["a, seed 1"])
    assert "Not made yet" in told.read_text() and in_browser(page).problems == []


def test_published_numbers_stand_in_a_table_of_their_own(tmp_path):
    assert {row["model"] for row in reported("beauty")} >= {"SASRec", "TIGER", "OneRec-Think"}
    assert reported("no such data set") == []
    board = Board("beauty", "Beauty", "beauty", (), quick=False)
    _, told, page = write_pages(board, tmp_path / "beauty.csv", [], [])
    assert "by their own rules" in told.read_text() and "| OneRec-Think | .0563 |" in told.read_text()
    assert "Published by others" in page.read_text()
