import pytest

from recbole_think.stages.checkpoints import COMPLETE, last_checkpoint, spacing, whole_checkpoint


def written(stage, step):
    with whole_checkpoint(stage / "checkpoints", step):
        folder = stage / "checkpoints" / f"checkpoint-{step}"
        folder.mkdir(parents=True)
        (folder / "weights").write_text(str(step))


def test_a_half_written_checkpoint_is_not_gone_on_from(tmp_path):
    stage = tmp_path / "recommendation"
    for step, whole in ((2, True), (10, True), (30, False)):
        folder = stage / "checkpoints" / f"checkpoint-{step}"
        folder.mkdir(parents=True)
        if whole:
            (folder / COMPLETE).touch()
    assert last_checkpoint(stage) == str(stage / "checkpoints" / "checkpoint-10")
    assert last_checkpoint(tmp_path / "nowhere") is None


def test_only_the_latest_whole_checkpoint_is_kept(tmp_path):
    (tmp_path / "checkpoints" / "checkpoint-2").mkdir(parents=True)  # half of one, of a killed process
    for step in (3, 6, 12):
        written(tmp_path, step)
        assert last_checkpoint(tmp_path) == str(tmp_path / "checkpoints" / f"checkpoint-{step}")
        assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == [f"checkpoint-{step}"]


def test_the_one_before_is_there_until_the_next_one_is_whole(tmp_path):
    written(tmp_path, 3)
    with pytest.raises(OSError, match="no room"), whole_checkpoint(tmp_path / "checkpoints", 6):
        (tmp_path / "checkpoints" / "checkpoint-6").mkdir()
        assert last_checkpoint(tmp_path).endswith("checkpoint-3")
        raise OSError("no room")
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["checkpoint-3"]


def test_what_a_killed_process_left_of_the_same_step_is_no_part_of_the_new_one(tmp_path):
    left = tmp_path / "checkpoints" / "checkpoint-3"
    left.mkdir(parents=True)
    (left / "old").touch()
    written(tmp_path, 3)
    assert {path.name for path in left.iterdir()} == {"weights", COMPLETE}


@pytest.mark.parametrize(
    ("steps", "checkpoints", "logging", "expected"), [(100, 4, 2, 20), (100, 3, 2, 24), (100, 99, 2, 2), (7, 3, 1, 1)]
)
def test_checkpoints_fall_on_steps_that_log(steps, checkpoints, logging, expected):
    assert spacing(steps, checkpoints, logging) == expected
