import numpy as np
import pytest

from recbole_think.errors import InputError
from recbole_think.itemic import stream
from recbole_think.itemic.embed import joined
from recbole_think.itemic.stream import OnDisk, Streamed, too_large


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr(stream, "CHUNK", 16)


def random(n=50, d=6, seed=0):
    return np.random.default_rng(seed).normal(3, 1, (n, d)).astype(np.float32)


def saved(path, vectors):
    np.save(path, vectors)
    return OnDisk(path, len(vectors))


def test_sources_on_disk_and_in_memory_are_joined_as_in_memory(tmp_path):
    one, two = random(), random(d=3, seed=1)
    two[[4, 20]] = 0
    found = Streamed([saved(tmp_path / "one.npy", one), two], [2.0, 0.5])
    assert found.shape == (50, 9) and len(found) == 50
    whole = np.concatenate([found[rows] for rows in found.chunks()])
    assert whole.dtype == np.float32
    np.testing.assert_allclose(whole, joined([one, two], [2.0, 0.5]), atol=1e-5)
    assert (whole[[4, 20], 6:] == 0).all()


def test_rows_come_in_the_order_asked_for(tmp_path):
    found = Streamed([saved(tmp_path / "own.npy", random())], [1.0])
    rows = np.array([49, 0, 17, 15, 16, 3])
    assert (found[rows] == np.concatenate([found[slice(row, row + 1)] for row in rows])).all()


def test_a_source_of_weight_zero_is_never_read(tmp_path):
    bad = np.full((50, 2), np.nan, np.float32)
    found = Streamed([saved(tmp_path / "bad.npy", bad), random()], [0.0, 1.0])
    assert found.shape == (50, 6) and np.isfinite(found[slice(0, 50)]).all()


def test_a_sample_is_rows_of_the_catalogue_none_twice_as_many_as_fit(tmp_path, monkeypatch):
    vectors = Streamed([saved(tmp_path / "own.npy", random())], [1.0])
    everything = {row.tobytes() for row in vectors[slice(0, 50)]}
    monkeypatch.setattr(stream, "MOST_BYTES", 20 * 6 * 4)
    few = vectors.sample(seed=0)
    assert few.shape == (20, 6) and len({row.tobytes() for row in few} & everything) == 20
    assert (few == vectors.sample(seed=0)).all() and (few != vectors.sample(seed=1)).any()
    monkeypatch.setattr(stream, "MOST_BYTES", 2**20)
    assert (vectors.sample(seed=0) == vectors[slice(0, 50)]).all(), "all of them where they fit"


def test_files_are_too_large_together_and_folders_do_not_count(tmp_path, monkeypatch):
    for name in ("one.npy", "two.npy"):
        np.save(tmp_path / name, random())
    files = [str(tmp_path / "one.npy"), str(tmp_path / "two.npy"), str(tmp_path)]
    size = sum((tmp_path / name).stat().st_size for name in ("one.npy", "two.npy"))
    monkeypatch.setattr(stream, "MOST_BYTES", size)
    assert not too_large(files)
    monkeypatch.setattr(stream, "MOST_BYTES", size - 1)
    assert too_large(files) and not too_large(files[1:])


@pytest.mark.parametrize("rows", [slice(16, 32), np.array([1, 21])], ids=["slice", "array"])
def test_values_that_are_no_numbers_are_refused_by_their_row_when_they_are_read(rows, tmp_path):
    vectors = random()
    vectors[21, 2] = np.inf
    on_disk = saved(tmp_path / "own.npy", vectors)
    assert np.isfinite(on_disk[slice(0, 16)]).all()
    with pytest.raises(InputError, match=r"own\.npy: row 21 holds NaN or infinity"):
        on_disk[rows]


def test_a_file_of_another_shape_is_refused_before_it_is_read(tmp_path):
    np.save(tmp_path / "own.npy", random())
    with pytest.raises(InputError, match=r"expected \(49, d\)"):
        OnDisk(tmp_path / "own.npy", 49)
    with pytest.raises(InputError, match="no file"):
        OnDisk(tmp_path / "gone.npy", 49)


def test_whole_numbers_and_doubles_are_read_as_float32(tmp_path):
    for kind in (np.int16, np.float64):
        found = saved(tmp_path / f"{kind.__name__}.npy", np.arange(12).reshape(4, 3).astype(kind))[slice(1, 3)]
        assert found.dtype == np.float32 and found.tolist() == [[3, 4, 5], [6, 7, 8]]
