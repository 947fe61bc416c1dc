"""A twin is its row without the thought: the same recipe, as many candidates."""

import pytest

from recbole_think.errors import InputError
from tests.leaderboard.test_board import board_of

BOARD = """
dataset: toy
options: {decode: {thought_beams: 30}}
rows:
  thinks:
    model: OneRecThink
    seeds: [1, 2]
    minutes: 90
    runs_of: {distillation.teachers: [Pop]}
    options: {stages: [recommendation, activation], decode: {thoughts: 3, num_beams: 10}}
  its twin: {twin_of: thinks, minutes: 5}
  once: {twin_of: thinks, seeds: [2]}
  Pop: {model: Pop}
quick:
  rows: {Pop: {}, thinks: {decode.thoughts: 2}, its twin: {}}
"""


def test_a_twin_is_its_row_with_one_switch_turned_and_as_many_candidates(tmp_path):
    jobs = {(job.row, job.seed): job for job in board_of(tmp_path, BOARD).jobs}
    assert list(jobs) == [("thinks", 1), ("thinks", 2), ("its twin", 1), ("its twin", 2), ("once", 2), ("Pop", 2020)]
    row, twin = jobs["thinks", 2], jobs["its twin", 2]
    assert twin.options == {**row.options, "decode.think": False, "decode.num_beams": 90}, "3 thoughts of 30 beams"
    assert twin.stages_from == "thinks" and twin.runs_of == row.runs_of and twin.minutes == 5
    assert jobs["once", 2].options == twin.options and row.minutes == 90


def test_a_twin_of_a_recipe_has_as_many_candidates_as_the_recipe_looks_at(tmp_path):
    text = BOARD.replace("model: OneRecThink\n", "model: OneRecThink-qwen3-1.7b\n")
    text = text.replace("options: {decode: {thought_beams: 30}}", "options: {topk: [5, 10]}")
    jobs = {job.row: job for job in board_of(tmp_path, text).jobs}
    assert jobs["its twin"].options["decode.num_beams"] == 30, "3 thoughts of the recipe's 10 beams"


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("twin_of: thinks, minutes", "twin_of: think, minutes", "twin_of: there is no row 'think'; did you mean"),
        ("twin_of: thinks, minutes", "twin_of: Pop, minutes", "row 'Pop' does not think"),
        ("thoughts: 3,", "thoughts: 3, think: false,", "row 'thinks' does not think"),
        ("thoughts: 3,", "thoughts: 0,", "decode.thoughts must be at least 1"),
        ("minutes: 5}", "options: {}}", "unknown key 'options'"),
        ("twin_of: thinks, seeds", "twin_of: its twin, seeds", "row 'its twin' has an unknown key 'twin_of'"),
    ],
)
def test_a_twin_of_nothing_that_thinks_is_refused(tmp_path, old, new, said):
    assert old in BOARD
    with pytest.raises(InputError) as told:
        board_of(tmp_path, BOARD.replace(old, new))
    assert said in str(told.value) and "small.yaml" in str(told.value)


def test_the_quick_variant_may_hold_a_twin(tmp_path):
    _, row, twin = board_of(tmp_path, BOARD, quick=True).jobs
    assert row.options["decode.thoughts"] == 2
    assert twin.options == {**row.options, "decode.think": False, "decode.num_beams": 60}, "of the row as quick has it"
    only = BOARD.replace("thinks: {decode.thoughts: 2}, its twin", "once")
    _, alone = board_of(tmp_path, only, quick=True).jobs
    assert alone.options["decode.num_beams"] == 90 and alone.stages_from == "thinks"
