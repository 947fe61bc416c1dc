import subprocess
import sys

import pytest

from recbole_think.errors import InputError
from recbole_think.stages.answers import Answers


def test_what_was_answered_is_there_for_whoever_opens_the_file_next(tmp_path):
    path = tmp_path / "deep" / "answers.sqlite"
    Answers(path, "toy").add({f"k{number}": f"said {number}" for number in range(1500)})
    again = Answers(path, "toy")
    known = again.known([f"k{number}" for number in range(1490, 1510)])
    assert known == {f"k{number}": f"said {number}" for number in range(1490, 1500)}
    assert len(again.known([f"k{number}" for number in range(1500)])) == 1500
    again.add({"k1": "other"})
    assert Answers(path, "toy").known(["k1"]) == {"k1": "other"}


def test_answers_about_another_data_set_are_refused_by_name(tmp_path):
    Answers(tmp_path / "a.sqlite", "toy")
    with pytest.raises(InputError, match=r"another data set \(toy, this one is beauty\).*activation.rationales"):
        Answers(tmp_path / "a.sqlite", "beauty")


def test_a_file_of_another_kind_is_refused_and_left_alone(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("dear diary, today I will be overwritten by nobody at all, I hope")
    with pytest.raises(InputError, match="is not a file of rationales"):
        Answers(path, "toy")
    assert path.read_text().startswith("dear diary")


def test_two_who_write_at_once_lose_nothing(tmp_path):
    path = tmp_path / "a.sqlite"
    Answers(path, "toy")
    code = (
        "import sys; from pathlib import Path; from recbole_think.stages.answers import Answers; "
        "store = Answers(Path(sys.argv[1]), 'toy'); "
        "[store.add({sys.argv[2] + str(number): 'x'}) for number in range(60)]"
    )
    writers = [subprocess.Popen([sys.executable, "-c", code, str(path), name]) for name in "ab"]
    assert [writer.wait() for writer in writers] == [0, 0]
    assert len(Answers(path, "toy").known([f"{name}{number}" for name in "ab" for number in range(60)])) == 120
