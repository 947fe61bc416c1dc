"""Lines and records of no use: skipped, counted and quoted, and where nothing else is there, said."""

import gzip
import json

import pytest

from recbole_think.corpus.convert import records
from tests.corpus.convert.test_convert import FREE, converted, review, write
from tests.corpus.convert.test_split import MINI, write_csv

BEAUTY = ("amazon-2014", "--category=Beauty", *FREE)
LOOSE = "{'reviewerID': 'U2', 'asin': 'B\\'1', 'overall': 4.0, 'helpful': (0, 0), 'unixReviewTime': 5, 'x': None}\n"


@pytest.fixture
def raw(tmp_path):
    folder = tmp_path / "raw"
    folder.mkdir()
    return folder


def card(tmp_path) -> str:
    return (tmp_path / "out" / "toy" / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("argv", "name", "pattern"),
    [
        (BEAUTY, "ratings_Beauty.csv", "{},B1,5.0,7\n"),
        (("ml-20m", *FREE), "ratings.csv", "{},B1,5.0,7\n"),
        (("p5", *FREE), "sequential_data.txt", "{} B1\n"),
        (("onerec-think", *FREE), "sequential_data_processed.txt", "{} B1\n"),
    ],
)
def test_users_in_another_encoding_are_skipped_and_never_become_one(tmp_path, raw, argv, name, pattern, capsys):
    write(raw / "movies.csv", "movieId,title,genres\n")
    write(raw / "toy.pretrain.json", "{}")
    text = [
        pattern.format(user).encode(code) for user, code in (("Zoë", "utf8"), ("René", "latin1"), ("Renè", "latin1"))
    ]
    (raw / name).write_bytes(b"".join(text))
    code, files = converted(tmp_path, *argv)
    assert code == 0 and [row[0] for row in files[".inter"][1:]] == ["Zoë"]
    assert "could not be used: 2." in card(tmp_path) and f"{name}, line 2: not UTF-8 (invalid" in card(tmp_path)
    assert converted(tmp_path, *argv, "--malformed=1", "--replace")[0] == 2
    assert "2 lines are malformed" in capsys.readouterr().err


def test_films_in_another_encoding_are_skipped_as_well(tmp_path, raw):
    write(raw / "ratings.csv", "1,2,5.0,7\n")
    write(raw / "movies.csv", "2,Café (1996),Drama\n", "latin-1")
    assert converted(tmp_path, "ml-20m", *FREE)[0] == 0
    assert "movies.csv, line 1: not UTF-8" in card(tmp_path)


def test_zero_bytes_are_no_utf_8(tmp_path, raw, capsys):
    write(raw / "sequential_data.txt", "1 2 1\n2 1\n", "utf-16")
    assert converted(tmp_path, "p5", *FREE) == (2, {})
    said = capsys.readouterr().err
    assert "sequential_data.txt holds no event; lines or records that could not be used: 3" in said
    assert "line 1: not UTF-8 (it holds zero bytes, as UTF-16 does)" in said
    write(raw / "ratings_Beauty.csv", "U\0,B1,5.0,7\nU2,B1,5.0,7\n")
    code, files = converted(tmp_path, *BEAUTY)
    assert code == 0 and files[".inter"][1:] == [["U2", "B1", "5", "7"]]


def test_a_line_of_blanks_alone_is_a_user_without_items(tmp_path, raw):
    write(raw / "sequential_data.txt", "1 2 1\n\u00a0\n")
    code, files = converted(tmp_path, "p5", *FREE)
    assert code == 0 and len(files[".inter"]) == 3 and "line 2: a user without items" in card(tmp_path)


@pytest.mark.parametrize(
    ("maps", "said"),
    [
        ({"id2user": [1, 2]}, "id2user should map numbers to raw ids, got '[1, 2]'"),
        ({"id2item": None}, "id2item should map numbers to raw ids, got 'None'"),
        ({"id2user": {"1": ["A"]}}, "id2user should map '1' to a raw id, got \"['A']\""),
        ({"id2item": {"1": True}}, "id2item should map '1' to a raw id, got 'True'"),
        ({"id2item": {"1": float("inf")}}, "id2item should map '1' to a raw id, got 'inf'"),
    ],
)
def test_a_map_of_another_shape_is_refused(tmp_path, raw, capsys, maps, said):
    write(raw / "sequential_data.txt", "1 1\n")
    write(raw / "datamaps.json", json.dumps(maps))
    assert converted(tmp_path, "p5", *FREE) == (2, {})
    err = capsys.readouterr().err
    assert "datamaps.json: " in err and said in err and "fetch it again" in err


def test_raw_ids_that_are_numbers_become_their_text(tmp_path, raw):
    write(raw / "sequential_data.txt", "1 1\n")
    write(raw / "datamaps.json", '{"id2user": {"1": 5}, "id2item": {"1": 7}}')
    assert converted(tmp_path, "p5", *FREE)[1][".inter"][1:] == [["5", "7", "0"]]


def test_where_no_line_could_be_used_it_says_how_many_and_quotes_the_first(tmp_path, raw, capsys):
    write(raw / "reviews_Beauty.json", "".join(review(f"U{at}", "B1", at) for at in range(50)), "utf-16")
    assert converted(tmp_path, *BEAUTY) == (2, {})
    said = capsys.readouterr().err
    assert "reviews_Beauty.json holds no event; lines or records that could not be used: 51, the first being" in said
    assert "reviews_Beauty.json, line 1: not UTF-8" in said and "is it the file it should be?" in said


def test_where_filters_leave_nothing_lines_of_no_use_are_named_too(tmp_path, raw, capsys):
    write(raw / "reviews_Beauty.json", review("U1", "B1", 7))
    write(raw / "meta_Beauty.json", "<html>\n")
    assert converted(tmp_path, *BEAUTY, "--title_words=3") == (2, {})
    said = capsys.readouterr().err
    assert "no event is left" in said and "could not be used: 1, the first being" in said and "'<html>'" in said
    write(raw / "meta_Beauty.json", "{}")
    assert converted(tmp_path, *BEAUTY, "--title_words=3") == (2, {})
    assert "could not be used" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "name", "content"),
    [
        (BEAUTY, "reviews_Beauty.json", b""),
        (BEAUTY, "reviews_Beauty.json", b"\n\n"),
        (BEAUTY, "reviews_Beauty.json.gz", b""),
        (BEAUTY, "reviews_Beauty.json.gz", gzip.compress(b"", mtime=0)),
        (("ml-20m", *FREE), "ratings.csv", b"userId,movieId,rating,timestamp\n"),
        (("p5", *FREE), "sequential_data.txt", b""),
        (("lc-rec", *FREE), "Games.inter.json", b""),
        (("lc-rec", *FREE), "Games.inter.json", b"{}"),
        (MINI, "train/Toys_5.csv", b""),
    ],
)
def test_an_empty_file_is_said_to_be_empty(tmp_path, raw, capsys, argv, name, content):
    (raw / name).parent.mkdir(exist_ok=True)
    (raw / name).write_bytes(content)
    assert converted(tmp_path, *argv) == (2, {})
    said = capsys.readouterr().err
    assert name in said and " is empty" in said and "fetch it again" in said


def test_a_part_without_a_row_of_use_says_how_many_it_had(tmp_path, raw, capsys):
    write_csv(raw / "train" / "Toys_5.csv", [("A1", [], 4), ("A1", [], 5)])
    assert converted(tmp_path, *MINI) == (2, {})
    assert "could not be used: 2, the first being" in capsys.readouterr().err


def test_lists_without_items_and_items_without_a_record_are_counted(tmp_path, raw, capsys):
    write(raw / "Games.inter.json", '{"0": [1, 2], "7": []}')
    write(raw / "Games.item.json", '{"1": "just text", "2": {"title": "Pad"}, "3": null}')
    code, files = converted(tmp_path, "lc-rec", *FREE)
    assert code == 0 and files[".item"][1:] == [["1", ""], ["2", "Pad"]] and len(files[".inter"]) == 3
    assert "could not be used: 3." in card(tmp_path)
    assert "Games.inter.json, user '7': a user without items: '[]'" in card(tmp_path)
    assert "Games.item.json, item '1': no record of named fields: 'just text'" in card(tmp_path)
    assert converted(tmp_path, "lc-rec", "--malformed=2", "--replace", *FREE)[0] == 2
    assert "3 lines are malformed" in capsys.readouterr().err


def test_where_every_list_is_without_items_it_says_so(tmp_path, raw, capsys):
    write(raw / "Games.inter.json", '{"7": []}')
    assert converted(tmp_path, "lc-rec", *FREE) == (2, {})
    assert "Games.inter.json holds no event" in (said := capsys.readouterr().err) and "user '7'" in said


@pytest.mark.parametrize("number", ["nan", "NaN", "inf", "-inf", "Infinity", "1e999", "1e300"])
def test_ratings_and_times_that_are_no_numbers_are_counted(tmp_path, raw, number):
    write(raw / "ratings_Beauty.csv", f"U1,B1,5.0,7\nU2,B1,{number},7\nU3,B1,5.0,{number}\n")
    code, files = converted(tmp_path, *BEAUTY)
    assert code == 0 and files[".inter"][1:] == [["U1", "B1", "5", "7"]]
    assert f"line 2: rating is '{number}'" in card(tmp_path) and f"line 3: time is '{number}'" in card(tmp_path)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "1e300", '"nan"', '"inf"'])
def test_ratings_and_times_of_reviews_that_are_no_numbers_are_counted(tmp_path, raw, number):
    row = '{{"reviewerID": "{}", "asin": "B1", "overall": {}, "unixReviewTime": {}}}\n'
    for broken in (
        [row.format("U2", number, 7)],
        [row.format("U3", 5, number)],
    ):  # each alone: no other spoils the block
        write(raw / "reviews_Beauty.json", "".join([row.format("U1", 5, 7), *broken]))
        code, files = converted(tmp_path, *BEAUTY, "--replace")
        assert code == 0 and files[".inter"][1:] == [["U1", "B1", "5", "7"]]
        assert "could not be used: 1." in card(tmp_path)


def test_reviews_of_2014_may_be_python_literals(tmp_path, raw):
    write(raw / "reviews_Beauty.json.gz", review("U1", "B1", 7) + LOOSE * 101 + "{'reviewerID': open('x')}\n")
    code, files = converted(tmp_path, *BEAUTY)
    assert code == 0 and len(files[".inter"]) == 103 and files[".inter"][2] == ["U2", "B'1", "4", "5"]
    assert "could not be used: 1." in card(tmp_path) and "line 103: Expecting property name" in card(tmp_path)


def test_reviews_of_strict_json_are_read_at_once(tmp_path, raw, monkeypatch):
    monkeypatch.setattr(records, "_parsed", None)  # what reads line by line
    write(raw / "reviews_Beauty.json", review("U1", "B1", 7))
    assert converted(tmp_path, *BEAUTY)[0] == 0
