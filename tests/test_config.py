import copy
import os
import sys
from pathlib import Path

import numpy as np
import pytest

from recbole_think.config import ThinkConfig, merge, properties_dir
from recbole_think.errors import InputError
from tests.toy import settings, write_toy


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RECBOLE_THINK_CACHE", str(tmp_path / "cache"))


def config(model="SASRec", dataset="ml-100k", files=(), given=None, argv=()):
    return ThinkConfig(model, dataset, files, given, argv)


def yaml(name, text):
    Path(name).write_text(text)
    return name


def test_later_layers_win():
    # RecBole's default seed is 2020 and its topk [10]; overall.yaml says [5, 10, 20], ml-100k.yaml masks
    plain = config()
    assert plain["seed"] == 2020 and plain["topk"] == [5, 10, 20] and plain["mask_history"] is True
    one, two = yaml("one.yaml", "seed: 1\ntopk: [1]\n"), yaml("two.yaml", "seed: 2\n")
    assert config(files=[one, two])["seed"] == 2 and config(files=[two, one])["seed"] == 1
    assert config(files=[one, two])["topk"] == [1]
    assert config(files=[one], given={"seed": 3})["seed"] == 3
    assert config(files=[one], given={"seed": 3}, argv=["--seed=4"])["seed"] == 4
    assert config(argv=["--mask_history=false"])["mask_history"] is False


def test_the_data_sets_yaml_lies_under_the_models():
    beauty = config("OneRecThink", "beauty", given={"data_path": "x"})
    assert beauty["mask_history"] is False and beauty["recommendation"] is not None


def test_blocks_are_merged_key_by_key_over_all_layers():
    file = yaml("file.yaml", "recommendation: {epochs: 2, warmup: 0.5}\n")
    found = config(
        "OneRecThink", files=[file], given={"recommendation": {"warmup": 0.25}},
        argv=["--recommendation.dropout=0.0", "--decode.num_beams=30"],
    )  # fmt: skip
    defaults = config("OneRecThink")
    assert found["recommendation"] == {**defaults["recommendation"], "epochs": 2, "warmup": 0.25, "dropout": 0.0}
    assert found["decode"] == {**defaults["decode"], "num_beams": 30}


def test_a_split_is_replaced_whole():
    found = config(argv=["--eval_args.split={RS: [8, 1, 1]}"])
    assert found["eval_args"]["split"] == {"RS": [8, 1, 1]}
    assert found["eval_args"]["order"] == "TO", "the rest of the block stays"
    assert config()["eval_args"]["split"] == {"LS": "valid_and_test"}


def test_what_the_caller_gave_is_left_as_it_was():
    given = {"eval_args": {"mode": {"valid": "full", "test": "full"}}, "topk": [5], "metrics": ["Recall", "NDCG"]}
    before = copy.deepcopy(given)
    config(given=given, argv=["--eval_args.mode.valid=uni100", "--seed=3"])
    assert given == before


def test_merging_never_writes_into_what_is_laid_over():
    over = {"a": {"b": {"c": 1}}}
    base = merge({}, over)
    merge(base, {"a": {"b": {"c": 2}}})
    assert over == {"a": {"b": {"c": 1}}} and base == {"a": {"b": {"c": 2}}}


def test_one_configuration_does_not_leak_into_the_next():
    config("OneRecThink", argv=["--recommendation.epochs=1", "--metrics=[Recall]", "--valid_metric=Recall@10"])
    fresh = config("OneRecThink")
    assert fresh["recommendation"]["epochs"] != 1 and "NDCG" in fresh["metrics"]
    with pytest.raises(InputError):
        config("SASRec", argv=["--recommendation.epochs=1"])


@pytest.mark.parametrize(
    ("argv", "hint"),
    [
        (["--epoch=3"], "epochs"), (["--topkk=[5]"], "topk"), (["--maskhistory=true"], "mask_history"),
        (["--hidden_sise=4"], "hidden_size"),
    ],
)  # fmt: skip
def test_an_unknown_key_is_refused_with_the_nearest_one(argv, hint):
    with pytest.raises(InputError, match=rf"unknown option .*did you mean {hint}\?"):
        config(argv=argv)


@pytest.mark.parametrize("layer", ["file", "given", "argv"])
def test_an_unknown_key_is_refused_in_every_layer(layer):
    where = {
        "file": {"files": [yaml("file.yaml", "epoch: 3\n")]},
        "given": {"given": {"epoch": 3}},
        "argv": {"argv": ["--epoch=3"]},
    }[layer]
    with pytest.raises(InputError, match="unknown option 'epoch'"):
        config(**where)


@pytest.mark.parametrize(
    ("key", "instead"),
    [
        ("epochs", "recommendation.epochs"), ("learning_rate", "recommendation.learning_rate"),
        ("train_batch_size", "recommendation.tokens_per_batch"), ("MAX_ITEM_LIST_LENGTH", "prompts.max_history"),
        ("stopping_step", "recommendation.epochs"),
    ],
)  # fmt: skip
def test_a_key_our_model_does_not_read_is_refused_with_the_one_it_reads(key, instead):
    with pytest.raises(InputError, match=f"OneRecThink does not read '{key}'.*{instead}"):
        config("OneRecThink", argv=[f"--{key}=3"])
    assert config("SASRec", argv=[f"--{key}=3"])[key] == 3


def test_an_unknown_model_is_refused_with_the_nearest_one():
    with pytest.raises(InputError, match=r"unknown model 'SASrec'\. Did you mean 'SASRec'"):
        config("SASrec")


def test_models_of_cross_entropy_work_without_a_word_about_negative_samples():
    found = config("SASRec")
    assert found["loss_type"] == "CE" and found["train_neg_sample_args"]["distribution"] == "none"
    pairwise = config("SASRec", argv=["--loss_type=BPR"])
    assert pairwise["train_neg_sample_args"]["distribution"] == "uniform"
    assert config("BPR")["train_neg_sample_args"]["distribution"] == "uniform"


def test_the_packaged_data_set_is_found_without_a_path():
    folder = Path(config()["data_path"])
    assert (folder / "ml-100k.inter").is_file() and "recbole" in folder.parts


def test_a_path_is_honoured_for_every_data_set(tmp_path):
    for dataset in ("ml-100k", "toy"):
        assert config("Pop", dataset, given={"data_path": "mine"})["data_path"] == str(tmp_path / "mine" / dataset)
    assert config("Pop", "toy")["data_path"] == str(tmp_path / "dataset" / "toy")


def test_our_own_ml_100k_is_read_when_its_path_is_given(tmp_path):
    from recbole.data import create_dataset

    write_toy(tmp_path / "mine", {"u": ["a", "b", "c", "d"], "v": ["d", "c", "b", "a"]}, name="ml-100k")
    dataset = create_dataset(config("Pop", given={"data_path": str(tmp_path / "mine")}))
    assert dataset.item_num == 5, "four items of ours and padding"


def test_the_hosts_command_line_is_never_read(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["host", "--epochs=99", "--model=BPR", "--nonsense=1", "positional"])
    found = config()
    assert found["epochs"] != 99 and found["model"] == "SASRec"


@pytest.mark.parametrize(
    "text", ["__import__('pathlib').Path('boom').touch()", "1 + 1", "print('boom')", "[n for n in range(3)]"]
)
def test_strings_are_never_evaluated(text, tmp_path, capsys):
    assert config(given={"state": text})["state"] == text
    argv = config(argv=[f"--state={text}"])["state"]
    assert argv == (text if not text.startswith("[") else [text[1:-1]])
    assert not (tmp_path / "boom").exists() and capsys.readouterr().out == ""


def test_a_yaml_tag_makes_no_object(tmp_path):
    with pytest.raises(InputError):
        config(argv=["--state=!!python/object/apply:pathlib.Path.touch [boom]"])
    assert not (tmp_path / "boom").exists()


@pytest.mark.parametrize(
    ("text", "value"),
    [("3", 3), ("1e-3", 1e-3), ("0.5", 0.5), ("true", True), ("~", None), ("[5, 10]", [5, 10]), ("{a: 1}", {"a": 1})],
)
def test_values_of_the_command_line_are_read_as_yaml(text, value):
    found = config(argv=[f"--state={text}"])["state"]
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize("word", ["epochs=3", "--epochs", "--=3", "epochs", "-e=3", ""])
def test_words_that_are_no_options_are_refused(word):
    with pytest.raises(InputError, match="--key=value"):
        config(argv=[word])


@pytest.mark.parametrize("argv", ["--topk=[5", "--topk={a", "--state='x"])
def test_a_value_that_is_no_yaml_is_refused_in_one_line(argv):
    with pytest.raises(InputError) as refused:
        config(argv=[argv])
    assert "\n" not in str(refused.value)


def test_a_file_of_settings_that_is_missing_or_no_settings_is_refused():
    with pytest.raises(InputError, match=r"no file 'gone\.yaml'"):
        config(files=["gone.yaml"])
    with pytest.raises(InputError, match=r"list\.yaml: expected key: value lines"):
        config(files=[yaml("list.yaml", "- a\n- b\n")])
    with pytest.raises(InputError, match=r"broken\.yaml"):
        config(files=[yaml("broken.yaml", "a: [1\nb: 2\n")])
    assert config(files=[yaml("empty.yaml", "")])["seed"] == 2020


def test_only_who_what_and_when_are_loaded_unless_more_is_named():
    plain = config("Pop", argv=["--USER_ID_FIELD=who", "--TIME_FIELD=when"])
    assert plain["load_col"] == {"inter": ["who", "item_id", "when"]} and plain["normalize_field"] == ["when"]
    more = config("Pop", argv=["--load_col.item=[item_id, class]"])
    assert more["load_col"] == {"inter": ["user_id", "item_id", "timestamp"], "item": ["item_id", "class"]}


def test_our_models_history_length_decides_recboles():
    assert config("OneRecThink", argv=["--prompts.max_history=7"])["MAX_ITEM_LIST_LENGTH"] == 7


def test_general_models_score_as_many_pairs_as_memory_allows_unless_told():
    assert config("BPR")["eval_batch_size"] == 1_000_000
    assert config("BPR", argv=["--eval_batch_size=4096"])["eval_batch_size"] == 4096
    assert config("SASRec")["eval_batch_size"] == 512


def test_numpy_keeps_its_names_and_types():
    config()
    assert np.bool_(True).dtype == bool and np.float64 is np.dtype("float64").type


def test_the_yaml_folder_is_that_of_the_checkout():
    assert (properties_dir() / "overall.yaml").is_file()


def test_a_process_of_several_sees_all_gpus_and_takes_its_own(tmp_path, monkeypatch):
    """Trap: RecBole shows every process the first GPU alone, where ``cuda:1`` is none."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    for name, value in {"WORLD_SIZE": "2", "LOCAL_RANK": "1", "RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "set, so that it is put back afterwards")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    found = config("Pop", "toy", given=settings("Pop", tmp_path, tmp_path / "run"))
    assert str(found["device"]) == "cuda:1" and os.environ["CUDA_VISIBLE_DEVICES"] == "0,1"
