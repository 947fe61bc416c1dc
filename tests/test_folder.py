import json
import logging
import subprocess
import sys
from pathlib import Path

import pytest

from recbole_think import folder
from recbole_think.errors import InputError
from recbole_think.folder import cache_dir, choose, identity, opened

SETTINGS = {"model": "M", "dataset": "d", "seed": 1, "topk": [5], "block": {"x": 1}}


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_work_is_done_inside_the_folder_and_the_caller_is_back_afterwards(tmp_path):
    with opened(tmp_path / "run", SETTINGS) as inside:
        assert Path.cwd() == inside == tmp_path / "run"
    assert Path.cwd() == tmp_path
    assert json.loads((tmp_path / "run" / "config.json").read_text()) == SETTINGS


@pytest.mark.parametrize("error", [InputError, RuntimeError, KeyboardInterrupt])
def test_the_caller_is_back_after_an_error_too(error, tmp_path):
    with pytest.raises(error), opened(tmp_path / "run", SETTINGS):
        raise error("no")
    assert Path.cwd() == tmp_path


def test_a_wrong_input_leaves_no_fresh_folder(tmp_path):
    with pytest.raises(InputError), opened(tmp_path / "deep" / "run", SETTINGS):
        raise InputError("no")
    assert not (tmp_path / "deep" / "run").exists()


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_any_other_end_keeps_the_folder_to_go_on_from(error, tmp_path):
    with pytest.raises(error), opened(tmp_path / "run", SETTINGS):
        Path("kept").touch()
        raise error("no")
    with opened(tmp_path / "run", SETTINGS):
        assert Path("kept").exists()


def test_a_folder_that_was_there_before_survives_a_wrong_input(tmp_path):
    with opened(tmp_path / "run", SETTINGS):
        Path("kept").touch()
    with pytest.raises(InputError), opened(tmp_path / "run", SETTINGS):
        raise InputError("no")
    assert (tmp_path / "run" / "kept").exists()


@pytest.mark.parametrize(
    "kept",
    ["recommendation/facts.json", "facts.json", "metrics.json", "recommendation/checkpoints/checkpoint-5/complete"],
)
def test_work_worth_keeping_survives_a_full_disk(kept, tmp_path):
    # a full disk is an InputError whose message promises that finished work is kept
    with pytest.raises(InputError), opened(tmp_path / "run", SETTINGS):
        Path(kept).parent.mkdir(parents=True, exist_ok=True)
        Path(kept).touch()
        raise InputError("no room")
    assert (tmp_path / "run" / kept).exists()


HOLD = """
import sys, time
from pathlib import Path
from recbole_think.folder import opened
with opened(Path("run").resolve(), {"model": "M", "dataset": "d", "seed": 1, "topk": [5], "block": {"x": 1}}):
    print("inside", flush=True)
    sys.stdin.read()
"""


def test_a_second_process_is_refused_and_free_to_come_when_the_first_has_gone(tmp_path):
    first = subprocess.Popen(
        [sys.executable, "-c", HOLD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=tmp_path
    )
    try:
        assert first.stdout.readline() == "inside\n"
        for restart in (False, True):
            with pytest.raises(InputError, match=f"another process is working in {tmp_path / 'run'}"):
                opened(tmp_path / "run", SETTINGS, restart).__enter__()
        assert (tmp_path / "run" / "config.json").exists(), "not even --restart touches it"
    finally:
        first.communicate("")
    assert first.returncode == 0
    with opened(tmp_path / "run", SETTINGS):
        pass


@pytest.mark.parametrize(
    ("other", "key"),
    [({"seed": 2}, "seed"), ({"block": {"x": 2}}, "block"), ({"extra": 1}, "extra"), ({"topk": [5, 10]}, "topk")],
)
def test_a_run_of_another_configuration_is_refused_by_the_key_that_differs(other, key, tmp_path):
    with opened(tmp_path / "run", SETTINGS):
        pass
    with pytest.raises(InputError, match=rf"holds a run with {key}=.*--restart"):
        opened(tmp_path / "run", {**SETTINGS, **other}).__enter__()
    assert json.loads((tmp_path / "run" / "config.json").read_text()) == SETTINGS
    assert Path.cwd() == tmp_path


def test_what_a_block_has_learnt_to_hold_since_counts_as_off_in_an_older_folder(tmp_path):
    with opened(tmp_path / "run", SETTINGS):
        pass
    with opened(tmp_path / "run", {**SETTINGS, "block": {**SETTINGS["block"], "new": False, "newer": 0}}):
        pass
    with pytest.raises(InputError, match="holds a run with block="):
        opened(tmp_path / "run", {**SETTINGS, "block": {**SETTINGS["block"], "new": True}}).__enter__()
    with pytest.raises(InputError, match="holds a run with block="):
        opened(tmp_path / "run", {**SETTINGS, "block": {}}).__enter__()


def test_where_and_how_it_is_shown_make_no_other_experiment(tmp_path):
    with opened(tmp_path / "run", SETTINGS):
        pass
    with opened(
        tmp_path / "run", {**SETTINGS, "show_progress": False, "device": "cpu", "cache_dir": "x", "gpu_id": "1"}
    ):
        pass
    assert identity(SETTINGS) == identity({**SETTINGS, "run_folder": "elsewhere"})
    assert identity({"topk": (5, 10), "p": Path("x")}) == {"topk": [5, 10], "p": "x"}


def test_restart_empties_a_run_folder_and_takes_another_configuration(tmp_path):
    with opened(tmp_path / "run", SETTINGS):
        Path("stage").mkdir()
        Path("stage/old").touch()
    with opened(tmp_path / "run", {**SETTINGS, "seed": 2}, restart=True):
        assert not Path("stage").exists()
    assert json.loads((tmp_path / "run" / "config.json").read_text())["seed"] == 2


def test_restart_refuses_a_folder_that_is_no_run_folder(tmp_path):
    home = tmp_path / "home"
    (home / "thesis").mkdir(parents=True)
    (home / "thesis" / "final.tex").write_text("ten years")
    with pytest.raises(InputError, match="not a run folder"):
        opened(home, SETTINGS, restart=True).__enter__()
    assert {path.name for path in home.iterdir()} <= {"thesis", ".lock"}
    assert (home / "thesis" / "final.tex").read_text() == "ten years"


def test_restart_of_something_that_is_not_there_is_a_start(tmp_path):
    with opened(tmp_path / "run", SETTINGS, restart=True):
        assert Path("config.json").is_file()


def test_restart_follows_no_link_out_of_the_folder(tmp_path):
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "kept").touch()
    with opened(tmp_path / "run", SETTINGS):
        Path("link").symlink_to(tmp_path / "outside")
    with opened(tmp_path / "run", SETTINGS, restart=True):
        assert not Path("link").exists()
    assert (tmp_path / "outside" / "kept").exists()


@pytest.mark.parametrize("where", ["file", "file/below"])
def test_a_place_where_no_folder_can_be_is_an_input_error(where, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="folder"):
        opened(tmp_path / where, SETTINGS).__enter__()


def test_the_same_settings_find_the_same_folder_and_others_another(tmp_path):
    assert choose(SETTINGS) == choose({**SETTINGS, "show_progress": False})
    assert choose(SETTINGS).parent == tmp_path / "runs" / "d" and choose(SETTINGS).name.startswith("M-")
    assert choose(SETTINGS) != choose({**SETTINGS, "seed": 2})
    assert choose({**SETTINGS, "run_folder": "mine"}) == tmp_path / "mine"


def test_a_damaged_configuration_says_which_file(tmp_path):
    with opened(tmp_path / "run", SETTINGS):
        pass
    (tmp_path / "run" / "config.json").write_text('{"model":')
    with pytest.raises(InputError, match=r"config\.json"):
        opened(tmp_path / "run", SETTINGS).__enter__()


def test_the_log_is_written_without_colours_and_logging_is_left_as_it_was(tmp_path):
    root = logging.getLogger()
    before = root.level, list(root.handlers)
    with opened(tmp_path / "run", SETTINGS):
        logging.getLogger("anything").info("\x1b[1;32mgreen\x1b[0m words")
    text = (tmp_path / "run" / "run.log").read_text()
    assert "green words" in text and "\x1b" not in text
    assert (root.level, list(root.handlers)) == before


def test_the_cache_is_where_it_was_asked_for(tmp_path, monkeypatch):
    monkeypatch.setenv("RECBOLE_THINK_CACHE", str(tmp_path / "of_environment"))
    assert cache_dir(None) == tmp_path / "of_environment" and cache_dir(None).is_dir()
    assert cache_dir(str(tmp_path / "asked")) == tmp_path / "asked"
    monkeypatch.delenv("RECBOLE_THINK_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_dir(None) == tmp_path / ".cache" / "recbole_think"


def test_the_module_names_every_key_that_may_differ():
    assert {"run_folder", "cache_dir", "show_progress", "gpu_id", "device"} <= folder.NOT_IDENTITY


def test_what_a_killed_process_was_writing_is_swept_away(tmp_path):
    with opened(tmp_path / "run", SETTINGS):
        Path("stage").mkdir()
        for name in (".metrics.json.123", "stage/.weights.safetensors.77", "kept.123", ".kept"):
            Path(name).touch()
    with opened(tmp_path / "run", SETTINGS):
        assert {path.name for path in Path().rglob("*kept*")} == {"kept.123", ".kept"}
        assert not Path(".metrics.json.123").exists() and not Path("stage/.weights.safetensors.77").exists()


def test_nothing_is_swept_from_a_folder_that_is_not_a_runs(tmp_path):
    (tmp_path / "home" / "deep").mkdir(parents=True)
    (tmp_path / "home" / "deep" / ".notes.12").touch()
    with opened(tmp_path / "home", SETTINGS):
        assert Path("deep/.notes.12").exists()


@pytest.mark.parametrize("left", [["config.json"], [".config.json.9"], []])
def test_a_start_that_was_killed_is_taken_up(left, tmp_path):
    with opened(tmp_path / "run", SETTINGS):
        pass
    for path in (tmp_path / "run").iterdir():
        if path.name not in left:
            path.unlink()
    for name in left:
        (tmp_path / "run" / name).touch()
    for restart in (True, False):
        with opened(tmp_path / "run", SETTINGS, restart):
            assert {path.name for path in Path().iterdir()} == {"config.json", "config.yaml", "run.log", ".lock"}


@pytest.mark.parametrize("moved", range(5))
def test_a_restart_that_was_killed_leaves_no_run_that_looks_finished(moved, tmp_path, monkeypatch):
    with opened(tmp_path / "run", SETTINGS):
        Path("metrics.json").write_text("{}")
        Path("stage").mkdir()
        Path("stage/facts.json").touch()
    (tmp_path / "run" / "run.log").unlink()
    real, calls = Path.rename, []

    def kill(path, target):
        if len(calls) == moved:
            raise KeyboardInterrupt
        calls.append(path.name)
        return real(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", kill)
        patch.setattr(folder.shutil, "rmtree", lambda path, ignore_errors=False: ignore_errors or kill(path, path))
        with pytest.raises(KeyboardInterrupt):
            opened(tmp_path / "run", SETTINGS, restart=True).__enter__()
    left = {path.name for path in (tmp_path / "run").iterdir()}
    assert ("metrics.json" in left) == (moved == 0) and ("config.json" in left) == (moved < 4)
    with opened(tmp_path / "run", SETTINGS, restart=True):
        assert {path.name for path in Path().iterdir()} == {"config.json", "config.yaml", "run.log", ".lock"}
