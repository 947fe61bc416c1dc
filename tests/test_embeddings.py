"""Codes made of the item embeddings of a finished run."""

import json

import numpy as np
import pytest

from recbole_think import load, run
from recbole_think.embeddings import item_embeddings
from recbole_think.errors import InputError
from tests.toy import run_opened, settings, write_toy


@pytest.fixture(scope="module")
def ranker(toy_path, tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranker") / "run"
    return run_opened("SASRecAll", settings("SASRecAll", toy_path, folder)), folder


def coded(toy_path, folder, ranker, **more):
    given = settings("OneRecThink", toy_path, folder, stages=["recommendation"])
    given["itemic"] = {
        "levels": 2, "size": 8, "text_weight": 0.0, "collaborative_weight": 0.0, "vector_files": [str(ranker)],
    }  # fmt: skip
    return run("OneRecThink", "toy", config_dict={**given, **more})


def test_items_stand_where_the_ranker_put_them(ranker, toy_path, tmp_path):
    opened, folder = ranker
    vectors = item_embeddings(folder, opened.data.fingerprint)
    assert np.array_equal(vectors, load(folder).model.item_embedding.weight.detach().cpu().numpy()[1:])
    coded(toy_path, tmp_path / "coded", folder)
    model = load(tmp_path / "coded").model
    found = model.item_vectors()
    wanted = vectors - vectors.mean(0)
    wanted /= np.linalg.norm(wanted, axis=1, keepdims=True)
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    made_from = json.loads((tmp_path / "coded" / "itemic" / "facts.json").read_text())["made_from"]
    assert made_from["content of itemic.vector_files[0]"], "which weights they are from is known"


def test_runs_that_have_none_or_know_too_much_are_refused(ranker, toy_path, tmp_path):
    _, folder = ranker
    run("Pop", "toy", config_dict=settings("Pop", toy_path, tmp_path / "pop"))
    with pytest.raises(InputError, match=r"Pop .* has no item_embedding"):
        coded(toy_path, tmp_path / "of-pop", tmp_path / "pop")
    with pytest.raises(InputError, match="another split"):
        item_embeddings(folder, "of-other-events")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="is not a finished run"):
        coded(toy_path, tmp_path / "of-nothing", tmp_path / "empty")
    other = write_toy(tmp_path / "other", {f"u{n}": [f"p{(n + k) % 9}" for k in range(7)] for n in range(20)})
    with pytest.raises(InputError, match="another split"):
        coded(other, tmp_path / "elsewhere", folder)
