import json

import pytest
import torch

from recbole_think.stages import precision


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("name", ["float32", "bfloat16"])
def test_a_named_precision_is_taken_without_measuring(name, tmp_path, monkeypatch):
    monkeypatch.setattr(precision, "_speed_ratio", lambda *_: pytest.fail("measured"))
    assert precision.choose(name, tmp_path, 8, 16) == getattr(torch, name)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("ratio", "chosen"), [(5.0, torch.bfloat16), (1.3, torch.bfloat16), (1.29, torch.float32), (0.2, torch.float32)]
)
def test_auto_takes_bfloat16_only_where_it_is_worth_it(ratio, chosen, tmp_path, monkeypatch):
    monkeypatch.setattr(precision, "_speed_ratio", lambda *_: ratio)
    assert precision.choose("auto", tmp_path, 8, 16) == chosen


def test_auto_measures_once_and_keeps_its_choice_when_the_machine_is_busier_later(tmp_path, monkeypatch):
    monkeypatch.setattr(precision, "_speed_ratio", lambda *_: 4.0)
    assert precision.choose("auto", tmp_path, 8, 16) == torch.bfloat16
    monkeypatch.setattr(precision, "_speed_ratio", lambda *_: pytest.fail("measured again"))
    assert precision.choose("auto", tmp_path, 8, 16) == torch.bfloat16
    kept = json.loads((tmp_path / "precision.json").read_text())
    assert kept["chosen"] == "bfloat16" and kept["bfloat16_over_float32"] == 4.0 and kept["shape"] == [1024, 8, 16]


def test_the_measurement_itself_gives_a_positive_ratio():
    assert precision._speed_ratio(8, 16) > 0
