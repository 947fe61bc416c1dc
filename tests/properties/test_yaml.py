import inspect
import re
from dataclasses import fields
from pathlib import Path

import pytest
import yaml

from recbole_think import catalog
from recbole_think.config import ThinkConfig
from recbole_think.inputs import require_inputs
from recbole_think.model import BLOCKS
from recbole_think.options import read_options
from recbole_think.paths import properties_dir

FILES = sorted(properties_dir().rglob("*.yaml"))
IDS = [path.relative_to(properties_dir()).as_posix() for path in FILES]


def kind(path: Path) -> str:
    return path.parent.name


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("path", FILES, ids=IDS)
def test_it_is_a_table_of_settings_without_a_key_written_twice(path):
    class Strict(yaml.SafeLoader):
        pass

    def mapping(loader, node, deep=False):
        keys = [loader.construct_object(key, deep=True) for key, _ in node.value]
        assert len(keys) == len(set(keys)), f"written twice: {keys}"
        return yaml.SafeLoader.construct_mapping(loader, node, deep)

    Strict.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, mapping)
    assert isinstance(yaml.load(path.read_text(encoding="utf-8"), Strict), dict)


@pytest.mark.parametrize("path", [p for p in FILES if kind(p) in ("model", "dataset")], ids=str)
def test_its_first_line_is_the_command_that_uses_it(path):
    first = path.read_text(encoding="utf-8").splitlines()[0]
    assert first.startswith("# python run_recbole_think.py --model=")
    assert f"--{kind(path)}={path.stem}" in first.split()
    words = dict(word.removeprefix("--").split("=", 1) for word in first.split() if word.startswith("--"))
    catalog.lookup(words["model"])


@pytest.mark.parametrize("path", FILES, ids=IDS)
def test_every_key_is_known_to_the_configuration(path):
    model = path.stem if kind(path) == "model" else "SASRec"
    dataset = path.stem if kind(path) == "dataset" else "ml-100k"
    ours = set(yaml.safe_load((properties_dir() / "overall.yaml").read_text()))
    config = ThinkConfig(model, dataset)
    blocks = {
        *getattr(config.model_class, "OPTIONS", ()),
        *(("stages", "stages_from", "sharding") if model == "OneRecThink" else ()),
    }
    recboles = set().union(*config.parameters.values())
    of_s3rec = {"item_attribute", "train_stage", "pretrain_epochs"} if model == "S3Rec" else set()  # its trainer's
    parents = [cls for cls in config.model_class.__mro__ if cls.__module__.startswith("recbole")]
    source = "".join(Path(inspect.getfile(cls)).read_text(encoding="utf-8") for cls in parents)
    for key in yaml.safe_load(path.read_text(encoding="utf-8")):
        read_by_model = re.search(rf'config\[\s*"{key}"\s*\]', source) or key in of_s3rec
        assert key in recboles | blocks | ours or read_by_model, f"{key}: nobody reads it"


@pytest.mark.parametrize("path", [p for p in FILES if kind(p) == "model"], ids=str)
def test_the_blocks_of_a_model_are_options_it_can_read_and_name_every_one(path):
    config = ThinkConfig(path.stem, "ml-100k")
    given = yaml.safe_load(path.read_text(encoding="utf-8"))
    known = getattr(config.model_class, "OPTIONS", {})
    blocks = [key for key in given if key in known]
    if path.stem == "OneRecThink":
        assert set(blocks) == set(BLOCKS)
    for key in blocks:
        options = read_options(known[key], config[key], key)
        named = {field.name for field in fields(options)}
        assert named == set(given[key]) or path.stem in catalog.recipes(), "the file explains every option"


@pytest.mark.parametrize("recipe", catalog.recipes())
def test_a_recipe_lies_over_the_defaults_of_its_model(recipe):
    given = yaml.safe_load((properties_dir() / "model" / f"{recipe}.yaml").read_text(encoding="utf-8"))
    config, plain = ThinkConfig(recipe, "ml-100k"), ThinkConfig(catalog.family(recipe), "ml-100k")
    assert config["backbone"] == {**plain["backbone"], **given["backbone"]} != plain["backbone"]
    assert config["itemic"]["encoder"] == plain["itemic"]["encoder"], "what it does not say stays"
    assert config.model_class is plain.model_class
    require_inputs(config)


def test_the_settings_of_the_paper_are_those_it_gives():
    found = ThinkConfig("OneRecThink-qwen3-1.7b", "ml-100k", config_dict={"load_col": None})
    expected = {
        "itemic": {"levels": 4, "size": 256}, "prompts": {"max_history": 50},
        "token_warmup": {"row_learning_rate": 5e-4}, "multi_task": {"learning_rate": 3e-4, "lora_rank": 0},
        "activation": {"learning_rate": 3e-4, "evidence": 10},
        "enhancement": {"rationales": 16, "beams": 32, "learning_rate": 1e-5, "kl": 0.001, "clip": 0.2},
        "decode": {"num_beams": 10}, "rewards": {"position": 1.0, "likelihood": 0.0},
    }  # fmt: skip
    for block, values in expected.items():
        assert {name: found[block][name] for name in values} == values, block


def test_a_model_file_is_named_as_in_the_catalogue():
    for path in FILES:
        if kind(path) == "model":
            assert catalog.lookup(path.stem)
