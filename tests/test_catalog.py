import subprocess
import sys

import pytest

from recbole_think.catalog import CATALOG, load, lookup, recbole_names
from recbole_think.errors import InputError


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("name", CATALOG)
def test_every_model_listed_and_its_trainer_can_be_loaded(name):
    entry = lookup(name)
    assert load(entry.model).__name__ == name and callable(load(entry.trainer).fit)


def test_any_other_model_of_recbole_is_found_with_the_trainer_recbole_gives_it():
    assert "LightGCN" in recbole_names() and not set(recbole_names()) & set(CATALOG)
    entry = lookup("LightGCN")
    assert load(entry.model).__name__ == "LightGCN" and load(entry.trainer).__name__ == "Trainer"


@pytest.mark.parametrize(
    ("name", "near"), [("OneRecThnk", "OneRecThink"), ("GRU4rec", "GRU4Rec"), ("LightGCNN", "LightGCN")]
)
def test_an_unknown_name_is_refused_with_the_nearest_one(name, near):
    with pytest.raises(InputError, match=rf"unknown model '{name}'.*Did you mean '{near}'"):
        lookup(name)


def test_loading_a_model_leaves_the_search_for_anomalies_off(tmp_path):
    # a module of RecBole's sequential models switches it on for the whole process, which makes every step slower
    code = (
        "import torch; from recbole_think.catalog import load, lookup; load(lookup('SASRec').model); "
        "assert not torch.is_anomaly_enabled()"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-300:]
