"""The recipe of MiniOneRec from the command's side: a mix of six tasks, then rewards for lists, and no thought."""

import json

import pytest

from recbole_think.prompts.options import TASKS
from tests.pages import read
from tests.toy import SMALL, run_opened, settings


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("fresh", [False, True])
def test_a_run_learns_the_mix_and_then_from_its_own_lists(fresh, toy_path, tmp_path):
    small = SMALL["OneRecThink"]
    mix = {**small["multi_task"], **dict.fromkeys(TASKS, 1.0)}
    lists = {**small["item_enhancement"], "fresh": fresh}
    given = settings(
        "OneRecThink", toy_path, tmp_path / "run", stages=["multi_task", "item_enhancement"], multi_task=mix,
        item_enhancement=lists,
    )  # fmt: skip
    metrics = run_opened("OneRecThink", given).metrics
    assert [row["stage"] for row in metrics["stages"]] == ["multi_task", "item_enhancement"]
    assert not metrics["think"] and metrics["illegal_rate"] == 0
    assert metrics["stages"][1]["figures"]["rewards"] == {"hit": 1.0, "rank": 1.0}
    facts = json.loads((tmp_path / "run" / "multi_task" / "facts.json").read_text())["made_from"]
    assert facts["options"]["naming"] == facts["options"]["next_title"] == 1.0
    assert ("withheld" in facts) == fresh, "what is asked about was not taught"
    assert "stage-1" in read(tmp_path / "run").charts
