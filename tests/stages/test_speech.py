import pytest

from recbole_think.errors import InputError
from recbole_think.itemic.options import BackboneOptions
from recbole_think.stages import speech

ASKED = ["What is a thing?", "Where is the box?", "Who has it?"]
CORPUS = ["a thing in a box", "what is it", "who has the thing"]


def answers(tmp_path, asked=ASKED, longest=6, layers=1):
    options = BackboneOptions(name="tiny", layers=layers)
    return speech.own_answers(options, asked, longest, tmp_path / "cache", CORPUS, 0)


def test_the_backbone_answers_our_questions_and_is_asked_once(tmp_path, monkeypatch):
    found = answers(tmp_path)
    assert 2 <= len(found) <= 3 and {text.question for text in found} <= set(ASKED)
    monkeypatch.setattr(speech, "_generate", lambda *_: pytest.fail("asked again"))
    assert answers(tmp_path) == found
    assert answers(tmp_path, layers=2) == found, "the whole backbone speaks, however few layers are taught"


def test_other_questions_are_answered_anew(tmp_path):
    answers(tmp_path)
    answers(tmp_path, asked=ASKED[:2])
    answers(tmp_path, longest=7)
    assert len(list((tmp_path / "cache" / "own_answers").iterdir())) == 3


def test_answers_are_the_same_on_another_day(tmp_path):
    assert answers(tmp_path / "a") == answers(tmp_path / "b")


def test_a_backbone_that_says_nothing_is_an_input_error(tmp_path, monkeypatch):
    monkeypatch.setattr(speech, "_generate", lambda model, tokenizer, asked, longest: [" "] * len(asked))
    with pytest.raises(InputError, match=r"alignment\.general"):
        answers(tmp_path)
