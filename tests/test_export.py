"""An exported run is a plain Hugging Face folder, and reading it back gives the run's very lists."""

import json
import subprocess
import sys

import pytest
import torch

from recbole_think import load, run
from recbole_think.artifacts import fresh_folder
from recbole_think.errors import InputError
from recbole_think.export import CARD, FACTS, export, main, read_export
from recbole_think.export import card as model_card
from tests.toy import settings

PLAIN = """
import json, sys, torch
from transformers import AutoModelForCausalLM, AutoTokenizer
assert not any(name.startswith("recbole") for name in sys.modules)
model = AutoModelForCausalLM.from_pretrained(sys.argv[1])
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
facts = json.load(open(sys.argv[1] + "/itemic.json"))
prompt = facts["prompt"] + facts["items"][2]["tokens"] + facts["items"][0]["tokens"]
ids = tokenizer(prompt, add_special_tokens=False, return_tensors="pt").input_ids
assert tokenizer.apply_chat_template([{"role": "user", "content": "hello"}], tokenize=False)
print(json.dumps([ids[0].tolist(), model(ids).logits[0, -1].tolist()]))
"""


@pytest.fixture(scope="module", params=[["recommendation"], ["recommendation", "activation"]], ids=["direct", "thinks"])
def made(request, toy_path, tmp_path_factory):
    """A finished run, and its export."""
    place = tmp_path_factory.mktemp("export")
    given = settings("OneRecThink", toy_path, place / "run", stages=request.param, instruments={"users": 0})
    run("OneRecThink", "toy", config_dict=given)
    export(place / "run", place / "plain")
    return load(place / "run"), place


def test_every_user_gets_the_very_list_of_the_run(made):
    found, place = made
    exported = read_export(place / "plain")
    histories, asked = found.splits["test"][1], 0
    for user in range(1, histories.n_users):
        history = [exported.ids[item - 1] for item in histories.of(user).tolist()]
        for masked in (None, False, True):
            wanted = [one.item_id for one in found.recommend(history, 10, mask_history=masked)]
            assert exported.recommend(history, 10, mask_history=masked)[: len(wanted)] == wanted
            asked += 1
    assert asked > 20


def test_transformers_alone_reads_it_and_computes_the_same(made):
    found, place = made
    done = subprocess.run(
        [sys.executable, "-c", PLAIN, str(place / "plain")], capture_output=True, text=True, check=True
    )
    ids, logits = json.loads(done.stdout.splitlines()[-1])
    names = found.model.ranker
    assert ids == names.prompts([torch.tensor([3, 1]).numpy()])[0].tolist(), "the prompt is spelt as it is made"
    with torch.no_grad():
        wanted = found.model.language_model(torch.tensor([ids])).logits[0, -1]
    torch.testing.assert_close(torch.tensor(logits), wanted, atol=1e-5, rtol=1e-4)


def test_the_folder_says_what_it_holds(made):
    found, place = made
    facts = json.loads((place / "plain" / FACTS).read_text())
    assert [item["id"] for item in facts["items"]] == found.names[1:]
    assert [item["codes"] for item in facts["items"]] == found.model.codes.table.tolist()
    assert facts["items"][0]["tokens"] == found.model.vocabulary.spell(1)
    card = (place / "plain" / CARD).read_text()
    for said in (f"| ndcg@10 | {found.metrics['test']['ndcg@10']:.4f} |", found.metrics["command"]):
        assert said in card
    assert "## The data set" not in card and "last event of every user" in card
    config = json.loads((place / "plain" / "config.json").read_text())
    assert config["vocab_size"] == len(found.model.vocabulary.tokenizer)


def test_the_card_holds_that_of_the_data_and_says_what_was_asked(made, tmp_path, monkeypatch):
    found, _ = made
    (tmp_path / CARD).write_text("# Toys\n\nGrown by hand.\n\n## Terms\n\nFree.\n")
    for key, value in {"data_path": str(tmp_path), "benchmark_filename": ["train", "valid", "test"]}.items():
        monkeypatch.setitem(found.config.final_config_dict, key, value)
    card = model_card(found)
    assert "## The data set\n\n### Toys\n\nGrown by hand.\n\n#### Terms\n\nFree.\n" in card
    assert "every event of the test file" in card


def test_the_model_of_the_run_is_left_as_it_was(made):
    found, place = made
    before = found.recommend("u0")
    export(place / "run", place / "again")
    assert found.recommend("u0") == before
    assert (place / "again" / "model.safetensors").read_bytes() == (place / "plain" / "model.safetensors").read_bytes()


def test_the_command_writes_checks_and_refuses_to_write_over_what_is_there(made, capsys):
    _, place = made
    words = [str(place / "run"), str(place / "by-command"), "--check=5"]
    assert main(words) == 0
    assert "5 of 5 users the very list" in capsys.readouterr().out
    assert main(words) == 2
    assert "--replace" in capsys.readouterr().err
    assert main([*words, "--replace"]) == 0
    (place / "home").mkdir()
    (place / "home" / "letter.txt").write_text("dear")
    assert main([words[0], str(place / "home"), "--replace"]) == 2
    assert "it was not made by this command" in capsys.readouterr().err
    assert (place / "home" / "letter.txt").read_text() == "dear"


def test_what_cannot_be_recommended_is_said(made):
    exported = read_export(made[1] / "plain")
    for history, k, said in (
        (["nobody"], 3, "unknown item 'nobody'"), ([], 3, "an empty history"), (exported.ids[:2], 500, "k must be 1 to")
    ):  # fmt: skip
        with pytest.raises(InputError, match=said):
            exported.recommend(history, k)


def test_a_run_of_another_model_or_none_is_refused(toy_path, tmp_path, capsys):
    run("Pop", "toy", config_dict=settings("Pop", toy_path, tmp_path / "pop"))
    assert main([str(tmp_path / "pop"), str(tmp_path / "plain")]) == 2
    assert "only OneRecThink holds a language model" in capsys.readouterr().err
    assert main([str(tmp_path), str(tmp_path / "plain")]) == 2
    assert "is not a finished run" in capsys.readouterr().err
    assert not (tmp_path / "plain").exists()


def test_a_damaged_export_is_refused(made, tmp_path):
    import shutil

    with pytest.raises(InputError, match=f"has no {FACTS}"):
        read_export(tmp_path)
    shutil.copytree(made[1] / "plain", tmp_path / "cut")
    weights = tmp_path / "cut" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(InputError, match="cannot be loaded"):
        read_export(tmp_path / "cut")
    shutil.copytree(made[1] / "plain", tmp_path / "other")
    facts = json.loads((tmp_path / "other" / FACTS).read_text())
    facts["sizes"] = [size + 1 for size in facts["sizes"]]
    (tmp_path / "other" / FACTS).write_text(json.dumps(facts))
    with pytest.raises(InputError, match="is not that of these codes"):
        read_export(tmp_path / "other")


def test_what_is_there_stays_until_the_new_one_is_whole(tmp_path, monkeypatch):
    place = tmp_path / "a"
    with fresh_folder(place, False, "ours") as draft:
        (draft / "ours").write_text("old")
    rename = type(place).rename

    def broken(self, target):
        if self.name.endswith(".new"):
            raise OSError("no luck")
        return rename(self, target)

    monkeypatch.setattr(type(place), "rename", broken)
    with pytest.raises(InputError, match="no luck"), fresh_folder(place, True, "ours") as draft:
        (draft / "ours").write_text("new")
    assert (place / "ours").read_text() == "old" and [path.name for path in tmp_path.iterdir()] == ["a"]
    monkeypatch.undo()
    with fresh_folder(place, True, "ours") as draft:
        (draft / "ours").write_text("new")
    assert (place / "ours").read_text() == "new" and [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_folder_that_cannot_be_finished_leaves_nothing(tmp_path):
    with pytest.raises(RuntimeError), fresh_folder(tmp_path / "a", False, "x") as draft:
        (draft / "half").write_text("half")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []
