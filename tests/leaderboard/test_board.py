from pathlib import Path

import pytest

from recbole_think.errors import InputError
from recbole_think.leaderboard.board import read_board
from recbole_think.paths import results_dir

GOOD = """
title: A toy
dataset: toy
seeds: [1, 2]
options: {topk: [5, 10], decode: {think: false}}
rows:
  SASRec-CE: {model: SASRecAll, minutes: 7, options: {epochs: 3, topk: [10]}}
  Pop: {model: Pop, seeds: [9]}
  thinks: {model: OneRecThink, stages_from: Pop, options: {decode.think: true, stages: [recommendation]}}
quick:
  options: {metrics: [Recall]}
  rows: {SASRec-CE: {epochs: 1}}
"""


def board_of(tmp_path, text, quick=False):
    path = tmp_path / "small.yaml"
    path.write_text(text)
    return read_board(path, quick)


def test_every_row_and_seed_is_a_job_with_a_command_of_its_own(tmp_path):
    board = board_of(tmp_path, GOOD)
    assert (board.name, board.title, board.dataset) == ("small", "A toy", "toy")
    assert [(job.row, job.seed, job.minutes) for job in board.jobs] == [
        ("SASRec-CE", 1, 7), ("SASRec-CE", 2, 7), ("Pop", 9, 10), ("thinks", 1, 10), ("thinks", 2, 10),
    ]  # fmt: skip
    assert board.jobs[1].command == (
        "python run_recbole_think.py --model=SASRecAll --dataset=toy --seed=2 '--topk=[10]' --decode.think=False "
        "--epochs=3"
    )
    assert board.jobs[1].name.startswith("SASRec-CE-2-")
    other = board_of(tmp_path, GOOD.replace("epochs: 3", "epochs: 4"))
    assert other.jobs[1].name != board.jobs[1].name and other.jobs[2].name == board.jobs[2].name
    assert board.jobs[3].stages_from == "Pop"
    assert "'--stages=[recommendation]'" in board.jobs[3].command
    assert "--decode.think=True" in board.jobs[3].command, "a row's own options are laid over the shared ones"


def test_a_row_may_take_the_runs_of_others_of_its_own_seed_or_of_one_that_is_named(tmp_path):
    taught = """rows:
  taught: {model: OneRecThink, runs_of: {distillation: {teachers: [SASRec-CE, "SASRec-CE, seed 1", Pop]}}}
"""
    board = board_of(tmp_path, GOOD.replace("rows:\n", taught, 1))
    assert board.jobs[1].runs_of == {"distillation.teachers": [("SASRec-CE", 2), ("SASRec-CE", 1), ("Pop", 9)]}
    assert "<run of SASRec-CE, seed 2>,<run of SASRec-CE, seed 1>,<run of Pop, seed 9>" in board.jobs[1].command
    assert board.jobs[2].runs_of == {}
    for wrong, said in (
        ("SASRec-CE, seed 3", "row 'SASRec-CE' has no seed 3"),
        ("SASRec-C", "there is no row 'SASRec-C'; did you mean 'SASRec-CE'"),
        ("taught", "before itself"),
    ):
        with pytest.raises(InputError, match="runs_of") as told:
            board_of(tmp_path, GOOD.replace("rows:\n", taught.replace("SASRec-CE, seed 1", wrong), 1))
        assert said in str(told.value)


def test_the_quick_variant_has_fewer_rows_one_seed_each_and_results_of_its_own(tmp_path):
    board = board_of(tmp_path, GOOD, quick=True)
    assert board.name == "small-quick" and board.quick
    [job] = board.jobs
    assert job.seed == 1 and job.options["epochs"] == 1 and job.options["metrics"] == ["Recall"]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("dataset: toy", "datset: toy", "unknown key 'datset'; did you mean 'dataset'"),
        ("dataset: toy", "title2: x", "unknown key 'title2'"),
        ("minutes: 7", "minuts: 7", "unknown key 'minuts'; did you mean 'minutes'"),
        ("model: Pop", "model: Popp", "row 'Pop': unknown model 'Popp'. Did you mean 'Pop'"),
        ("model: Pop, ", "", "row 'Pop' has no 'model'"),
        ("stages_from: Pop", "stages_from: Pup", "there is no row 'Pup'; did you mean 'Pop'"),
        ("rows: {SASRec-CE: {epochs: 1}}", "rows: {SASRec: {epochs: 1}}", "quick: there is no row 'SASRec'"),
        ("seeds: [9]", "seeds: 9", "seeds must be a list of whole numbers"),
        ("seeds: [9]", "seeds: [9, 9]", "would share the file name 'Pop-9'"),
        ("  thinks:", "  SASRec CE:", "would share the file name 'SASRec-CE-1'"),
        ("options: {epochs: 3, topk: [10]}", "options: 3", "options of row 'SASRec-CE' must be a block"),
        ("title: A toy", "title: [", "is not YAML"),
        ("  thinks:", "  'thinks, twice':", "row 'thinks, twice': --rows separates names by commas"),
    ],
)
def test_what_is_wrong_is_said_and_where(tmp_path, old, new, said):
    assert old in GOOD
    with pytest.raises(InputError) as told:
        board_of(tmp_path, GOOD.replace(old, new), quick="quick" in said)
    assert said in str(told.value) and "small.yaml" in str(told.value)


def test_a_board_without_a_quick_variant_says_so(tmp_path):
    with pytest.raises(InputError, match="no quick variant"):
        board_of(tmp_path, GOOD.split("quick:")[0], quick=True)


def test_a_board_that_is_no_file_or_no_board_is_refused(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        read_board(tmp_path / "none.yaml")
    with pytest.raises(InputError, match="must be a block"):
        board_of(tmp_path, "- a list")


@pytest.mark.parametrize("path", sorted(results_dir().parent.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_committed_board_can_be_read(path: Path):
    board = read_board(path)
    assert board.jobs
    if "quick:" in path.read_text():
        assert read_board(path, quick=True).jobs
