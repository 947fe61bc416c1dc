from pathlib import Path

import pytest

from recbole_think.cli import main
from recbole_think.config import ThinkConfig
from recbole_think.layers import Row, flat, origins, table


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RECBOLE_THINK_CACHE", str(tmp_path / "cache"))


def test_the_highest_layer_that_says_a_key_is_named():
    layers = [("low", {"a": 1, "b": {"c": 1, "d": 1}}), ("high", {"b": {"c": 2}})]
    assert origins(layers, {"b": {"d": 1, "c": 2}, "a": 1}) == [
        Row("a", "low", 1), Row("b.c", "high", 2), Row("b.d", "low", 1),
    ]  # fmt: skip


def test_what_is_not_as_any_layer_said_it_was_derived():
    layers = [("low", {"path": "here", "mode": "full"}), ("high", {"topk": 5})]
    found = origins(layers, {"path": "/far/here", "topk": [5], "mode": {"test": "full"}, "device": "cpu"})
    assert {row.key: row.layer for row in found} == {
        "device": "derived", "mode.test": "low", "path": "derived from low", "topk": "derived from high",
    }  # fmt: skip


def test_a_value_of_another_type_is_another_value():
    assert origins([("low", {"a": 1})], {"a": True})[0].layer == "derived from low"


def test_blocks_are_flattened_by_dots_and_an_empty_one_is_a_value():
    assert flat({"a": {"b": {"c": 1}, "d": {}}, "e": [1]}) == {"a.b.c": 1, "a.d": {}, "e": [1]}


def test_the_columns_of_the_table_are_aligned():
    lines = table([Row("a", "x", None), Row("long.key", "command line", [1])]).splitlines()
    assert lines == ["a         x             null", "long.key  command line  [1]"]


def shown(capsys, *words: str) -> dict[str, tuple[str, str]]:
    """``{key: (layer, value)}`` of what the command prints, read by its columns."""
    assert main(["--show_config", *words]) == 0
    lines = capsys.readouterr().out.splitlines()
    value_at = lines[0].index('"entity_id"')
    assert [line.split()[0] for line in lines] == sorted(line.split()[0] for line in lines)
    assert all(line[value_at - 1] == " " != line[value_at] for line in lines), "aligned"
    return {line.split()[0]: (line[len(line.split()[0]) : value_at].strip(), line[value_at:]) for line in lines}


def test_the_command_shows_every_layer_by_its_name_and_touches_nothing(capsys, tmp_path):
    Path("one.yaml").write_text("seed: 3\nrecommendation: {epochs: 9, dropout: 0.0}\n")
    Path("two.yaml").write_text("recommendation: {dropout: 0.2}\n")
    found = shown(
        capsys, "--model=OneRecThink", "--dataset=ml-100k", "--config_files=one.yaml two.yaml", "--decode.num_beams=40",
        "--topk=10", "--prompts.max_history=7",
    )  # fmt: skip
    assert found["seed"] == ("one.yaml", "3") and found["recommendation.epochs"] == ("one.yaml", "9")
    assert found["recommendation.dropout"] == ("two.yaml", "0.2")
    assert found["decode.num_beams"] == ("command line", "40")
    assert found["recommendation.warmup"] == ("model/OneRecThink.yaml", "0.05")
    assert found["mask_history"] == ("dataset/ml-100k.yaml", "true")
    assert found["valid_metric"] == ("overall.yaml", '"NDCG@10"')
    assert found["USER_ID_FIELD"] == ("RecBole default", '"user_id"')
    assert found["topk"] == ("derived from command line", "[10]")
    assert found["MAX_ITEM_LIST_LENGTH"] == ("derived from RecBole default", "7")
    assert found["epochs"][0] == "not read" and found["model"] == ("command line", '"OneRecThink"')
    assert found["run_folder"][1].startswith(f'"{tmp_path}/runs/ml-100k/OneRecThink-')
    assert {path.name for path in tmp_path.iterdir()} == {"one.yaml", "two.yaml"}


def test_an_option_no_yaml_sets_is_shown_with_its_default(monkeypatch):
    from recbole_think.model import OneRecThink
    from tests.stages.test_stage import AddOptions

    monkeypatch.setattr(OneRecThink, "OPTIONS", {**OneRecThink.OPTIONS, "extra": AddOptions})
    rows = {row.key: row for row in ThinkConfig("OneRecThink", "ml-100k").origins()}
    assert rows["extra.amount"] == Row("extra.amount", "default", 1.0)


def test_settings_from_python_are_named_too(capsys):
    rows = ThinkConfig("BPR", "toy", config_dict={"seed": 5, "data_path": "d"}, argv=["--topk=[3]"]).origins()
    layers = {row.key: row.layer for row in rows}
    assert (layers["seed"], layers["topk"], layers["data_path"]) == (
        "config_dict",
        "command line",
        "derived from config_dict",
    )


def test_an_unknown_key_is_refused_as_in_a_run(capsys):
    assert main(["--show_config", "--model=BPR", "--dataset=toy", "--epoch=3"]) == 2
    assert "did you mean epochs" in capsys.readouterr().err
