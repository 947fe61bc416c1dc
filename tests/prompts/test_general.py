import json

import pytest

from recbole_think.errors import InputError
from recbole_think.prompts.alignment import GeneralText
from recbole_think.prompts.general import FORMS, questions, read_general


def test_several_hundred_different_questions_are_asked():
    asked = questions()
    assert len(asked) == len(set(asked)) == sum(map(len, FORMS.values())) >= 200
    assert not any("{" in question for question in asked)


def test_a_few_questions_are_of_different_kinds():
    few = questions(6)
    assert few == questions()[:6]
    assert len({question.split()[0] for question in few}) >= 5


def test_a_folder_of_texts_is_read_one_text_a_file(tmp_path):
    (tmp_path / "b").mkdir()
    (tmp_path / "a.txt").write_text("first text", encoding="utf-8")
    (tmp_path / "b" / "c.txt").write_text("second text", encoding="utf-8")
    (tmp_path / "empty.txt").write_text(" \n", encoding="utf-8")
    (tmp_path / "not_me.md").write_text("no", encoding="utf-8")
    assert read_general(tmp_path) == [GeneralText("first text"), GeneralText("second text")]


def test_json_lines_are_texts_or_questions_with_answers_or_chats(tmp_path):
    path = tmp_path / "texts.jsonl"
    chat = [{"role": "system", "content": "s"}, {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    lines = [{"text": "t"}, {"prompt": "p", "answer": "x"}, {"messages": chat}]
    path.write_text("\n\n".join(map(json.dumps, lines)), encoding="utf-8")
    assert read_general(path) == [GeneralText("t"), GeneralText("x", "p"), GeneralText("a", "q")]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("no json", "line 2"), ('{"other": 1}', "line 2"), ('{"text": 5}', "line 2"), ('{"text": " "}', "line 2"),
        ("[1]", "line 2"), ('{"messages": []}', "line 2"),
    ],
)  # fmt: skip
def test_a_line_that_is_no_text_is_refused_by_its_number(tmp_path, line, said):
    path = tmp_path / "texts.jsonl"
    path.write_text('{"text": "fine"}\n' + line + "\n", encoding="utf-8")
    with pytest.raises(InputError, match=said):
        read_general(path)


def test_an_empty_folder_and_a_folder_that_is_not_there_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"no \.txt file"):
        read_general(tmp_path)
    with pytest.raises(InputError, match="no folder and no file"):
        read_general(tmp_path / "nowhere")
    (tmp_path / "x.jsonl").write_text("", encoding="utf-8")
    with pytest.raises(InputError, match="holds no lines"):
        read_general(tmp_path / "x.jsonl")


def test_text_that_is_not_utf8_is_refused(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xff\xfe\xfa")
    with pytest.raises(InputError, match="UTF-8"):
        read_general(tmp_path)
