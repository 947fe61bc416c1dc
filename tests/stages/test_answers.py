import json
import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from recbole_think.errors import InputError
from recbole_think.stages.answers import AT_ONCE, Answers

ROOT = Path(__file__).resolve().parents[2]


def elsewhere(code: str, *args) -> subprocess.Popen:
    """Another process, that knows the package as this one does."""
    head = f"import sys, json; from pathlib import Path; sys.path.insert(0, {str(ROOT)!r})\n"
    head += "from recbole_think.stages.answers import Answers\n"
    return subprocess.Popen([sys.executable, "-c", head + code, *map(str, args)], stdout=subprocess.PIPE, text=True)


def finished(process: subprocess.Popen) -> str:
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 0
    return out


@pytest.fixture
def path(tmp_path):
    return tmp_path / "not" / "yet" / "there" / "answers.sqlite"


def test_what_was_answered_is_known_and_nothing_else(path):
    answers = Answers(path, "ring")
    assert answers.known(["a", "b"]) == {} == answers.known([])
    answers.add({"a": "one", "b": 'it\'s "two"\n日本'})
    answers.add({})
    assert answers.known(["b", "c", "a", "a"]) == {"a": "one", "b": 'it\'s "two"\n日本'}
    assert answers.known(["c"]) == {}


def test_a_later_answer_replaces_an_earlier_one(path):
    answers = Answers(path, "ring")
    answers.add({"a": "one", "b": "two"})
    answers.add({"a": "other"})
    assert answers.known(["a", "b"]) == {"a": "other", "b": "two"}


def test_another_process_knows_the_answers_of_this_one_and_this_one_those_of_another(path):
    Answers(path, "ring").add({"a": "one"})
    code = """
answers = Answers(Path(sys.argv[1]), "ring")
print(json.dumps(answers.known(["a"])))
answers.add({"b": "two"})
"""
    assert json.loads(finished(elsewhere(code, path))) == {"a": "one"}
    assert Answers(path, "ring").known(["a", "b"]) == {"a": "one", "b": "two"}


def test_a_file_about_another_data_set_is_refused_by_both_names_and_left_alone(path):
    Answers(path, "ring").add({"a": "one"})
    with pytest.raises(InputError, match=r"another data set \(ring, this one is beauty\).*activation\.rationales"):
        Answers(path, "beauty")
    assert Answers(path, "ring").known(["a"]) == {"a": "one"}


@pytest.mark.parametrize("content", [b"history\trationale\n" * 200, b"{}"])
def test_a_file_that_is_no_database_is_refused_and_left_alone(tmp_path, content):
    file = tmp_path / "rationales.jsonl"
    file.write_bytes(content)
    with pytest.raises(InputError, match=r"rationales\.jsonl is not a file of rationales .*activation\.rationales"):
        Answers(file, "ring")
    assert file.read_bytes() == content


def test_a_folder_is_refused_too(tmp_path):
    with pytest.raises(InputError, match="not a file of rationales"):
        Answers(tmp_path, "ring")


def test_thousands_of_keys_are_asked_for_and_kept_at_once(path):
    answers = Answers(path, "ring")
    many = {f"key {number}": f"answer {number}" for number in range(9 * AT_ONCE + 7)}
    answers.add(many)
    assert answers.known([*many, *(f"no {key}" for key in many)]) == many
    some = list(many)[: 2 * AT_ONCE]
    assert list(answers.known(some)) and answers.known(some) == {key: many[key] for key in some}


def test_two_processes_write_at_once_and_no_answer_is_lost(path):
    code = """
answers = Answers(Path(sys.argv[1]), "ring")
for number in range(60):
    answers.add({f"{sys.argv[2]} {number}": str(number), "both": sys.argv[2]})
"""
    writers = [elsewhere(code, path, name) for name in ("one", "two")]
    for writer in writers:
        finished(writer)
    wanted = {f"{name} {number}": str(number) for name in ("one", "two") for number in range(60)}
    found = Answers(path, "ring").known([*wanted, "both"])
    assert found.pop("both") in ("one", "two")
    assert found == wanted


def test_the_threads_of_one_process_share_the_answers(path):
    answers = Answers(path, "ring")
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda number: answers.add({str(number): "x"}), range(40)))
    assert len(answers.known([str(number) for number in range(40)])) == 40


def test_some_answers_are_added_whole_or_not_at_all(path):
    answers = Answers(path, "ring")
    with pytest.raises(sqlite3.Error):
        answers.add({"a": "one", "b": None})  # an answer must be text
    assert answers.known(["a", "b"]) == {}
