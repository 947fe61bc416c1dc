import json

import pytest
import torch

from recbole_think.experiment import run
from recbole_think.rivals.sasrec import SASRecAll
from recbole_think.stages import precision
from tests.toy import settings, write_toy


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_float32_is_taken_without_measuring(tmp_path, monkeypatch):
    monkeypatch.setattr(precision, "_speed_ratio", lambda *_: pytest.fail("measured"))
    assert precision.choose("float32", tmp_path, 8, 16) == torch.float32
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("ratio", [5.0, 0.9, 0.2])
def test_bfloat16_is_taken_where_asked_for_even_if_it_gains_nothing(ratio, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(precision, "_speed_ratio", lambda *_: ratio)
    assert precision.choose("bfloat16", tmp_path, 8, 16) == torch.bfloat16
    assert not caplog.records


@pytest.mark.parametrize("ratio", [0.19, 0.01, 0.0])
def test_bfloat16_is_refused_where_it_is_hopeless_and_the_log_says_so_once(ratio, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(precision, "_speed_ratio", lambda *_: ratio)
    assert [precision.choose("bfloat16", tmp_path, 8, 16) for _ in range(3)] == 3 * [torch.float32]
    [warning] = caplog.messages
    assert warning.startswith("bfloat16 was asked for") and "float32 is used" in warning


def test_it_is_said_as_well_where_something_else_was_measured_before(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(precision, "_speed_ratio", lambda *_: 0.01)
    assert precision.choose("auto", tmp_path, 8, 16) == torch.float32 and not caplog.messages
    assert precision.choose("bfloat16", tmp_path, 8, 16) == torch.float32
    assert len(caplog.messages) == 1


def test_what_was_measured_for_one_wish_serves_the_others(tmp_path, monkeypatch):
    monkeypatch.setattr(precision, "_speed_ratio", lambda *_: 1.0)
    assert precision.choose("bfloat16", tmp_path, 8, 16) == torch.bfloat16
    monkeypatch.setattr(precision, "_speed_ratio", lambda *_: pytest.fail("measured again"))
    assert precision.choose("auto", tmp_path, 8, 16) == torch.float32


def test_a_processor_that_crawls_is_not_waited_for(monkeypatch):
    calls = []
    clock = iter(range(100))
    monkeypatch.setattr(precision.time, "perf_counter", lambda: calls.append(1) or float(next(clock)))
    monkeypatch.setattr(precision, "PATIENCE", 0.5)
    assert precision._speed_ratio(8, 16) == 1.0
    assert len(calls) == 4, "one product in each precision"


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


@pytest.mark.parametrize(("ratio", "reads"), [(1.0, [torch.bfloat16]), (0.01, [])])
def test_recboles_mixed_precision_is_in_bfloat16_or_off(ratio, reads, tmp_path, monkeypatch):
    monkeypatch.setattr(precision, "_speed_ratio", lambda *_: ratio)
    given = {**settings("SASRecAll", write_toy(tmp_path / "data"), tmp_path / "run", epochs=1), "enable_amp": True}
    seen = set()

    def loss(self, interaction):
        if torch.is_autocast_enabled("cpu"):
            seen.add(torch.get_autocast_dtype("cpu"))
        return self.item_embedding.weight.square().mean()

    monkeypatch.setattr(SASRecAll, "calculate_loss", loss)
    result = run("SASRecAll", "toy", config_dict=given)
    assert seen == set(reads)
    assert (tmp_path / "run" / "metrics.json").is_file() and result["metrics"]["model"] == "SASRecAll"
