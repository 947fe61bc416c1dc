import dataclasses
import json

import numpy as np
import pytest

from recbole_think.corpus.histories import from_pairs
from recbole_think.errors import InputError
from recbole_think.itemic import stream
from recbole_think.itemic.build import build_codes, codes_of
from recbole_think.itemic.minibatch import minibatch_kmeans, named, renamed
from recbole_think.itemic.options import ItemicOptions
from recbole_think.itemic.quantize import explained, residual_kmeans
from recbole_think.itemic.stream import Streamed

OPTIONS = ItemicOptions(levels=2, size=8, text_weight=0.0, collaborative_weight=0.0, vector_files=("own.npy",))


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(stream, "CHUNK", 64)


def clustered(n=3000, seed=0):
    """Eight far places, three near shifts about each, a breath of noise."""
    dice = np.random.default_rng(seed)
    places, shifts = dice.normal(0, 10, (8, 5)), dice.normal(0, 1, (3, 5))
    noise = dice.normal(0, 0.1, (n, 5))
    return (places[dice.integers(8, size=n)] + shifts[dice.integers(3, size=n)] + noise).astype(np.float32)


def left(quantizer, vectors):
    return float(((vectors - quantizer.rebuilt(quantizer.nearest(vectors))) ** 2).sum())


@pytest.mark.parametrize("seed", range(3))
def test_mini_batches_leave_hardly_more_than_k_means_of_the_whole(seed):
    vectors = np.random.default_rng(seed).normal(size=(4000, 6)).astype(np.float32)
    whole = residual_kmeans(vectors, 2, 16, seed)
    small = minibatch_kmeans(vectors.copy(), 2, 16, seed)
    assert [centres.shape for centres in small.centres] == [(16, 6)] * 2
    assert left(small, vectors) < 1.06 * left(whole, vectors)


def test_the_sample_holds_what_is_left_over():
    vectors = clustered()
    rest = vectors.copy()
    quantizer = minibatch_kmeans(rest, 2, 8, seed=0)
    np.testing.assert_allclose(rest, vectors - quantizer.rebuilt(quantizer.nearest(vectors)), atol=1e-3)
    assert (rest**2).sum() == pytest.approx(left(quantizer, vectors), rel=1e-3)


def test_the_same_seed_gives_the_same_centres():
    one, two, other = (minibatch_kmeans(clustered(), 2, 8, seed).centres[1] for seed in (3, 3, 4))
    assert (one == two).all() and (one != other).any()


def test_fewer_items_than_codes_of_a_level_is_an_input_error():
    with pytest.raises(InputError, match=r"itemic\.size=8 .* the catalogue has 5"):
        minibatch_kmeans(np.zeros((5, 2), np.float32), 1, 8, 0)


def test_items_are_named_chunk_by_chunk_as_all_at_once():
    vectors = Streamed([clustered(1000)], [1.0])
    whole = vectors[slice(0, 1000)]
    quantizer = residual_kmeans(whole, 2, 8, 0)
    found = named(vectors, quantizer)
    assert (found.codes == quantizer.nearest(whole)).all() and found.codes.dtype == np.int64
    rebuilt = quantizer.rebuilt(found.codes)
    np.testing.assert_allclose(found.error, ((whole - rebuilt) ** 2).sum(1), rtol=1e-5)
    assert found.explained == pytest.approx(explained(whole, rebuilt), abs=1e-4)
    moved = found.codes.copy()
    moved[[7, 900]] = [[0, 0], [1, 1]]
    assert renamed(vectors, found, moved, quantizer).explained == explained(whole, quantizer.rebuilt(moved))


def test_a_vector_file_that_is_too_large_is_fitted_on_a_sample_and_no_two_items_are_alike(monkeypatch):
    vectors = clustered(60)
    np.save("own.npy", vectors)
    nobody = from_pairs(np.array([1]), np.array([1]), 2)
    whole = build_codes(OPTIONS, [None] * 60, nobody, None, 0)
    assert isinstance(whole.vectors, np.ndarray) and "fitted_on" not in whole.figures
    monkeypatch.setattr(stream, "MOST_BYTES", 40 * 5 * 4)
    found = build_codes(OPTIONS, [None] * 60, nobody, None, 0)
    assert isinstance(found.vectors, Streamed)
    assert found.figures["method"] == "rqkmeans" and found.figures["fitted_on"] == 40
    assert len({tuple(row) for row in found.codes.table}) == 60 and found.codes.sizes == (8, 8)
    assert 0 < found.figures["explained_after"] <= found.figures["explained_before"] <= 1
    assert found.figures["explained_before"] > whole.figures["explained_before"] - 0.1


def test_a_crowd_may_get_a_level_of_its_own():
    vectors = Streamed([np.repeat(clustered(20), 3, axis=0)], [1.0])
    found = codes_of(dataclasses.replace(OPTIONS, collisions="extra_level"), vectors, 0)
    assert found.codes.sizes[:2] == (8, 8) and found.codes.sizes[2] >= 3
    assert len({tuple(row) for row in found.codes.table}) == 60
    assert found.figures["explained_after"] == found.figures["explained_before"]


def test_an_auto_encoder_is_not_fitted_on_what_does_not_fit_memory():
    with pytest.raises(InputError, match=r"itemic\.method=rqvae needs all item vectors in memory"):
        codes_of(dataclasses.replace(OPTIONS, method="rqvae"), Streamed([clustered(60)], [1.0]), 0)


def test_a_run_whose_vectors_stay_on_disk_says_so_and_cannot_compare_all_items(toy_path, tmp_path, monkeypatch):
    from recbole_think import run
    from tests.toy import settings

    items = len((toy_path / "toy" / "toy.item").read_text().splitlines()) - 1
    np.save(tmp_path / "own.npy", np.random.default_rng(0).normal(size=(items, 4)).astype(np.float32))
    monkeypatch.setattr(stream, "MOST_BYTES", (items - 5) * 4 * 4)
    given = settings("OneRecThink", toy_path, tmp_path / "run", stages=[])
    given["itemic"] = {
        "levels": 2, "size": 8, "text_weight": 0.0, "collaborative_weight": 0.0,
        "vector_files": [str(tmp_path / "own.npy")],
    }  # fmt: skip
    run("OneRecThink", "toy", config_dict=given)
    folder = tmp_path / "run" / "itemic"
    health = json.loads((folder / "facts.json").read_text())["health"]
    assert health["fitted_on"] == items - 5 and health["collisions_after"] == 0
    assert len((folder / "map.tsv").read_text().splitlines()) == items + 1
    with pytest.raises(InputError, match="stages: activation compares the vectors of all items"):
        run(
            "OneRecThink", "toy", config_dict={**given, "stages": ["activation"], "run_folder": str(tmp_path / "other")}
        )
