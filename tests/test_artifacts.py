import errno
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from recbole_think import artifacts
from recbole_think.artifacts import (
    digest,
    disk_guard,
    load_tensors,
    read_json,
    require_same,
    save_tensors,
    write_json,
    write_text,
    write_whole,
)
from recbole_think.errors import InputError


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_a_file_is_written_with_its_folder_and_nothing_beside_it(tmp_path):
    path = tmp_path / "a" / "b" / "x.json"
    write_json(path, {"title": "Amélie 東京", "n": [1, 2], "p": Path("q")})
    assert read_json(path) == {"title": "Amélie 東京", "n": [1, 2], "p": "q"}
    assert "Amélie" in path.read_text(encoding="utf-8") and list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_write_that_breaks_off_leaves_what_was_there(error, tmp_path):
    path = tmp_path / "x.txt"
    write_text(path, "old")

    def half(draft):
        draft.write_text("ne")
        raise error("power cut")

    with pytest.raises(error):
        write_whole(path, half)
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_a_first_write_that_breaks_off_leaves_nothing(tmp_path):
    with pytest.raises(TypeError):
        write_whole(tmp_path / "x.txt", lambda draft: draft.write_text(3))
    assert not list(tmp_path.iterdir())


def test_a_reader_never_sees_half_a_file(tmp_path):
    path = tmp_path / "x.txt"
    write_text(path, "old")

    def watched(draft):
        draft.write_text("new")
        assert path.read_text() == "old"

    write_whole(path, watched)
    assert path.read_text() == "new"


LIMITED = """
import json, resource, signal, sys
from pathlib import Path
import numpy as np
import torch
from safetensors.torch import save_file
from recbole_think.artifacts import disk_guard, save_tensors, write_json, write_text, write_whole
from recbole_think.errors import InputError

big = {"t": torch.zeros(100_000)}

def by_numpy(draft):
    with draft.open("wb") as file:
        np.save(file, np.zeros(100_000))

def guarded(write):
    def way(path):
        with disk_guard(path):
            write(big, str(path))
    return way

ways = {
    "text": lambda path: write_text(path, "x" * 400_000),
    "json": lambda path: write_json(path, {"x": "x" * 400_000}),
    "numpy": lambda path: write_whole(path, by_numpy),
    "safetensors": lambda path: save_tensors(path, big),
    "torch": lambda path: write_whole(path, lambda draft: torch.save(big, draft)),
    "guarded safetensors": guarded(save_file),
    "guarded torch": guarded(torch.save),
}
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # a write beyond the limit fails instead of killing
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
for name, way in ways.items():
    path = Path(name) / "x"
    path.parent.mkdir()
    try:
        way(path)
        said = "no error"
    except InputError as why:
        said = f"InputError: {why}"
    except BaseException as why:
        said = f"{type(why).__name__}: {why}"
    print(json.dumps([name, said, sorted(p.name for p in path.parent.iterdir())]))
"""


@pytest.fixture(scope="module")
def on_a_full_disk(tmp_path_factory):
    """What each way of writing says, and leaves, when the disk takes no more than 50 kB of a file."""
    done = subprocess.run(
        [sys.executable, "-c", LIMITED], cwd=tmp_path_factory.mktemp("full"), capture_output=True, text=True, check=True
    )
    return {name: (said, left) for name, said, left in map(json.loads, done.stdout.splitlines())}


@pytest.mark.parametrize(
    "way", ["text", "json", "numpy", "safetensors", "torch", "guarded safetensors", "guarded torch"]
)
def test_a_full_disk_is_an_input_error_and_leaves_nothing_half_written(way, on_a_full_disk):
    said, left = on_a_full_disk[way]
    assert said.startswith(f"InputError: no room to write {way}/x") and "--run_folder" in said
    if not way.startswith("guarded"):
        assert left == []


@pytest.mark.parametrize("why", [OSError(28, "No space left on device"), OSError(122, "Disk quota exceeded")])
def test_the_guard_names_the_place_and_the_way_on(why, tmp_path):
    message = rf"no room to write {tmp_path}.*--run_folder.*same command again"
    with pytest.raises(InputError, match=message), disk_guard(tmp_path):
        raise why


@pytest.mark.parametrize("why", [PermissionError(13, "no"), RuntimeError("shapes differ"), FloatingPointError("nan")])
def test_the_guard_lets_every_other_error_through(why, tmp_path):
    with pytest.raises(type(why)) as caught, disk_guard(tmp_path):
        raise why
    assert caught.value is why and not isinstance(caught.value, InputError)


def test_tensors_come_back_as_they_were(tmp_path):
    shared = torch.arange(6.0).reshape(2, 3)
    given = {
        "shared": shared, "again": shared, "transposed": shared.T, "half": torch.ones(2, dtype=torch.bfloat16),
        "learnt": torch.nn.Parameter(torch.ones(3)), "whole": torch.tensor([1, 2**40]),
    }  # fmt: skip
    save_tensors(tmp_path / "t.safetensors", given)
    found = load_tensors(tmp_path / "t.safetensors")
    assert found.keys() == given.keys()
    for name, value in given.items():
        assert torch.equal(found[name], value) and found[name].dtype == value.dtype


@pytest.mark.parametrize("content", [b"", b"{", b"[1, 2", b"\xff\xfe\x00"])
def test_a_damaged_json_says_which_file_it_is(content, tmp_path):
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(InputError, match=r"x\.json is not readable JSON"):
        read_json(tmp_path / "x.json")


def test_damaged_tensors_say_which_file_it_is(tmp_path):
    save_tensors(tmp_path / "t.safetensors", {"t": torch.ones(100)})
    (tmp_path / "t.safetensors").write_bytes((tmp_path / "t.safetensors").read_bytes()[:60])
    with pytest.raises(InputError, match=r"t\.safetensors"):
        load_tensors(tmp_path / "t.safetensors")


def test_a_digest_depends_on_content_and_not_on_order():
    assert digest({"a": 1, "b": [1, 2]}) == digest({"b": [1, 2], "a": 1}) != digest({"a": 1, "b": [2, 1]})
    assert len(digest({})) == 8 and len(digest({}, 12)) == 12


def test_facts_that_differ_are_refused_by_name_and_extra_ones_are_not(tmp_path):
    require_same({"a": 1, "more": 2}, {"a": 1}, tmp_path)
    with pytest.raises(InputError, match=rf"{tmp_path} was made with b=None, this run has b=3.*--restart"):
        require_same({"a": 1}, {"a": 1, "b": 3}, tmp_path)


def test_versions_name_what_a_result_depends_on(monkeypatch):
    found = artifacts.versions()
    assert found["recbole"] == "1.2.1" and found["torch"] == torch.__version__ and "recbole_think" in found
    monkeypatch.setattr(artifacts, "PACKAGES", ("no-such-package",))
    assert artifacts.versions()["no-such-package"] == "not installed"


def test_what_is_written_is_json(tmp_path):
    write_json(tmp_path / "x.json", {"a": float(1)})
    assert json.loads((tmp_path / "x.json").read_text()) == {"a": 1.0}


def test_a_full_disk_is_told_once_by_guards_within_guards(tmp_path):
    with pytest.raises(InputError) as told, disk_guard(tmp_path / "stage"), disk_guard(tmp_path / "file"):
        raise OSError(errno.ENOSPC, "No space left on device (os error 28)")
    assert str(told.value).count("free some space") == 1 and str(tmp_path / "file") in str(told.value)


@pytest.mark.parametrize("said", ["unexpected pos 129856 vs 129748", "basic_ios::clear: iostream error"])
def test_what_torch_says_of_a_full_disk_is_understood_and_its_other_errors_are_left_alone(said, tmp_path):
    with pytest.raises(InputError, match="no room to write"), disk_guard(tmp_path):
        raise RuntimeError(said)
    with pytest.raises(RuntimeError, match="sizes differ"), disk_guard(tmp_path):
        raise RuntimeError("sizes differ")
