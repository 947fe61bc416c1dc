"""What is wrong with a publisher's file is said with its line, and nothing is half-written."""

import gzip
from urllib.parse import unquote

import pytest

from recbole_think.corpus.convert import lines as reading
from recbole_think.corpus.convert.__main__ import main
from tests.corpus.convert.test_convert import FREE, converted, review, write


@pytest.fixture
def raw(tmp_path):
    folder = tmp_path / "raw"
    folder.mkdir()
    return folder


GOOD = review("U1", "B1", 100)
BAD = [
    ('{reviewerID: "U1"}\n', "Expecting property name"),
    ("{'reviewerID': 'U1'}\n", "it has no 'asin'"),
    ('{"reviewerID": "U2", "asin": "B1", "overall": 5.0, "unixRev\n', "Unterminated string"),
    ('["a list"]\n', "no record of named fields"),
    ('{"asin": "B1", "overall": 5.0, "unixReviewTime": 7}\n', "it has no 'reviewerID'"),
    (review("U2", "B1", "soon"), "unixReviewTime is 'soon'"),
    (review("U2", ["B1"], 7), "asin is"),
    (review("U2", 1.5, 7), "asin is '1.5'"),
    (review("U2", True, 7), "asin is 'True'"),
    (review("", "B1", 7), "it has no 'reviewerID'"),
    (review("U2", "B1", 1e30), "unixReviewTime is '1e+30'"),
    (review("U2", "B\ud83d", 7), "asin is"),
]  # fmt: skip


@pytest.mark.parametrize(("line", "said"), BAD)
def test_malformed_lines_are_skipped_counted_and_quoted(tmp_path, raw, line, said):
    write(raw / "reviews_Beauty.json", GOOD + line + "\n" + review("U3", "B2", 300))
    code, files = converted(tmp_path, "amazon-2014", "--category=Beauty", *FREE)
    assert code == 0 and [row[0] for row in files[".inter"][1:]] == ["U1", "U3"]
    card = (tmp_path / "out" / "toy" / "README.md").read_text()
    assert "could not be used: 1." in card and "reviews_Beauty.json, line 2" in card and said in card


def test_a_line_in_another_encoding_is_malformed_and_the_others_are_not(tmp_path, raw):
    broken = review("U2", "B1", 5).replace("Nice", "Café", 1).encode("latin-1")
    (raw / "reviews_Beauty.json").write_bytes(GOOD.encode() + broken + review("U3", "B2", 300).encode())
    code, files = converted(tmp_path, "amazon-2014", "--category=Beauty", *FREE)
    assert code == 0 and len(files[".inter"]) == 3
    assert "not UTF-8" in (tmp_path / "out" / "toy" / "README.md").read_text()


def test_too_many_malformed_lines_are_an_error_that_quotes_the_last(tmp_path, raw, capsys):
    write(raw / "reviews_Beauty.json", GOOD + "x\n" * 4)
    code, files = converted(tmp_path, "amazon-2014", "--category=Beauty", "--malformed=3", *FREE)
    said = capsys.readouterr().err
    assert code == 2 and not files and "4 lines are malformed" in said and "line 5" in said and "--malformed" in said
    assert list((tmp_path / "out").iterdir()) == []


def test_numbers_written_as_words_are_read(tmp_path, raw):
    write(raw / "reviews_Beauty.json", review("U1", "B1", "100", "5.0") + review(17, "B1", 101.0))
    code, files = converted(tmp_path, "amazon-2014", "--category=Beauty", *FREE)
    assert code == 0 and files[".inter"][1:] == [["U1", "B1", "5", "100"], ["17", "B1", "5", "101"]]


def test_a_truncated_gzip_is_refused(tmp_path, raw, capsys):
    path = write(raw / "reviews_Beauty.json.gz", "".join(review(f"U{at}", "B1", at) for at in range(4000)))
    path.write_bytes(path.read_bytes()[:-3000])
    assert converted(tmp_path, "amazon-2014", "--category=Beauty", *FREE) == (2, {})
    said = capsys.readouterr().err
    assert "was cut off" in said and "bytes of text; fetch it again" in said
    path.write_bytes(b"no gzip at all")
    assert converted(tmp_path, "amazon-2014", "--category=Beauty", *FREE) == (2, {})
    assert "Not a gzipped file" in capsys.readouterr().err


def test_a_broken_zip_is_refused(tmp_path, raw, capsys):
    (raw / "ml-1m.zip").write_bytes(b"PK\x03\x04 and no more")
    assert converted(tmp_path, "ml-1m", *FREE) == (2, {})
    assert "damaged or was cut off" in capsys.readouterr().err


def test_columns_that_lack_or_are_no_numbers_are_malformed(tmp_path, raw):
    write(raw / "ratings.dat", "1::2::5::10\n1::3::5\nx::4::five::11\n1::5::::12\n2::6::4::13\n")
    write(raw / "movies.dat", "2::A\n6::B (1999)::Drama\n")
    write(raw / "users.dat", "")
    code, files = converted(tmp_path, "ml-1m", *FREE)
    assert code == 0 and [row[1] for row in files[".inter"][1:]] == ["2", "6"]
    card = (tmp_path / "out" / "toy" / "README.md").read_text()
    for said in ("could not be used: 4.", "line 2: 3 values instead of 4", "rating is 'five'", "rating is ''",
                 "movies.dat, line 1: 2 values instead of 3"):  # fmt: skip
        assert said in card


def test_items_nobody_describes_have_a_line_all_the_same(tmp_path, raw):
    write(raw / "reviews_Beauty.json", GOOD + review("U1", "B2", 300))
    write(raw / "meta_Beauty.json", "{'asin': 'B2', 'title': 'T'}\n")
    _, files = converted(tmp_path, "amazon-2014", "--category=Beauty", *FREE)
    assert files[".item"] == [["item_id:token", "title:token"], ["B1", ""], ["B2", "T"]]


def test_products_that_would_run_code_are_only_text(tmp_path, raw):
    write(raw / "reviews_Beauty.json", GOOD)
    write(raw / "meta_Beauty.json", f"{{'asin': 'B1', 'title': open({str(tmp_path / 'harm')!r}, 'w')}}\n")
    code, _ = converted(tmp_path, "amazon-2014", "--category=Beauty", *FREE)
    assert code == 0 and not (tmp_path / "harm").exists()


def test_hostile_ids_stay_in_their_cell_and_apart(tmp_path, raw):
    names = ['U\t1"\n<a_1>', "a  b", "a b", "NA", "null", "<a_2>", "50%"]
    write(raw / "reviews_Beauty.json", "".join(review(name, "B1", at) for at, name in enumerate(names)))
    _, files = converted(tmp_path, "amazon-2014", "--category=Beauty", *FREE)
    written = [row[0] for row in files[".inter"][1:]]
    assert written == [
        "U%091%22%0A%3Ca_1%3E", "a%20%20b", "a b", "%4E%41", "%6E%75%6C%6C", "<a_2>", "50%"
    ]  # fmt: skip
    assert [unquote(name) for name in written] == names


def test_ids_that_would_become_one_are_refused(tmp_path, raw, capsys):
    write(raw / "reviews_Beauty.json", review("a  b", "B1", 100) + review("a%20%20b", "B1", 101))
    assert converted(tmp_path, "amazon-2014", "--category=Beauty", *FREE)[0] == 2
    assert "ids 'a  b' and 'a%20%20b' would both be written" in capsys.readouterr().err


def test_no_id_is_lost_when_recbole_reads_what_was_written(tmp_path, raw):
    from recbole_think.experiment import run

    users = ["NA", "null", "None", "nan", "a  b", 'q"q', "plain"]
    rows = [review(user, f"B{(at + step) % 9}", step) for at, user in enumerate(users) for step in range(5)]
    write(raw / "reviews_Beauty.json", "".join(rows))
    assert converted(tmp_path, "amazon-2014", "--category=Beauty", *FREE)[0] == 0
    given = {"data_path": str(tmp_path / "out"), "run_folder": str(tmp_path / "run"), "show_progress": False}
    given |= {"topk": [5], "valid_metric": "NDCG@5"}
    assert run("Pop", "toy", config_dict=given)["metrics"]["users"] == len(users)


def test_a_rating_without_a_user_is_malformed_whatever_stands_beside_it(tmp_path, raw):
    for more in ("", "x\n"):
        write(raw / "ratings_Beauty.csv", f"U1,B1,5.0,100\n,B1,5.0,100\nU2,B1,5.0,{'9' * 24}\n{more}")
        code, files = converted(tmp_path, "amazon-2014", "--category=Beauty", "--replace", *FREE)
        assert code == 0 and files[".inter"][1:] == [["U1", "B1", "5", "100"]]


def test_a_time_in_other_units_does_not_stop_the_card(tmp_path, raw):
    write(raw / "reviews_Beauty.json", GOOD + review("U2", "B1", 1588687728923000))
    assert converted(tmp_path, "amazon-2014", "--category=Beauty", *FREE)[0] == 0
    assert "second 1588687728923000" in (tmp_path / "out" / "toy" / "README.md").read_text()


def test_products_in_no_shape_are_malformed_and_titles_lose_half_characters(tmp_path, raw):
    write(raw / "reviews_Beauty.json", GOOD)
    write(raw / "meta_Beauty.json", "{[1]: 2}\n{'asin': 'B1', 'title': 'x\\ud83d'}\n")
    code, files = converted(tmp_path, "amazon-2014", "--category=Beauty", *FREE)
    assert code == 0 and files[".item"][1] == ["B1", "x?"]


def test_lines_are_whole_whatever_the_size_of_a_block(tmp_path, monkeypatch):
    path = write(tmp_path / "a.txt", "one\ntwo\n\nthree and more\nlast")
    for size in (1, 2, 5, 7, 100):
        monkeypatch.setattr(reading, "BLOCK", size)
        found = [line for block in reading.blocks(path, show=False) for line in reading.lines(block)]
        assert found == [(1, b"one"), (2, b"two"), (4, b"three and more"), (5, b"last")]


def test_a_file_without_lines_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "LONGEST", 50)
    monkeypatch.setattr(reading, "BLOCK", 10)
    path = write(tmp_path / "a.txt", "x" * 100)
    with pytest.raises(reading.InputError, match="no text file"):
        list(reading.blocks(path, show=False))


def test_a_byte_order_mark_is_no_part_of_the_first_line(tmp_path, raw):
    (raw / "reviews_Beauty.json").write_bytes(b"\xef\xbb\xbf" + GOOD.encode())
    code, files = converted(tmp_path, "amazon-2014", "--category=Beauty", *FREE)
    assert code == 0 and files[".inter"][1][0] == "U1"


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ([], "name a source: ml-100k"),
        (["amazon-2023s"], "unknown source 'amazon-2023s'; did you mean 'amazon-2023'"),
        (["amazon-2014"], "such as --category=Beauty"),
        (["ml-1m", "--raw=nowhere"], "is no folder"),
        (["ml-1m"], "holds none of ml-1m.zip"),
        (["ml-1m", "--repeats=none"], "--repeats must be one of keep, first, last"),
        (["ml-1m", "--user_core=-1"], "--user_core must not be negative"),
        (["ml-1m", "--since=yesterday"], "--since='yesterday' is no day such as 2014-01-31"),
        (["ml-1m", "--ties=random"], "--ties must be one of file, position"),
        (["ml-1m", "--malformed=-1"], "--malformed must not be negative, got -1"),
        (["ml-1m", "--name=../evil"], "--name='../evil' names no folder right below --out"),
        (["ml-1m", "--name=a\\b"], "names no folder right below --out"),
        (["ml-1m", "--name=.."], "--name='..' names no folder right below --out"),
        (["ml-1m", "--name=."], "--name='.' names no folder right below --out"),
        (["amazon-2014", "--category=../Evil"], "--category='../Evil' names no folder right below --out"),
    ],
)
def test_what_cannot_be_asked_for_ends_with_two(tmp_path, monkeypatch, capsys, argv, said):
    monkeypatch.chdir(tmp_path)
    assert main(argv) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "dataset").exists() or not list((tmp_path / "dataset").iterdir())


def test_a_data_set_that_is_there_is_not_written_over_unasked(tmp_path, raw, capsys):
    write(raw / "reviews_Beauty.json", GOOD)
    assert converted(tmp_path, "amazon-2014", "--category=Beauty", *FREE)[0] == 0
    assert converted(tmp_path, "amazon-2014", "--category=Beauty", *FREE)[0] == 2
    assert "--replace" in capsys.readouterr().err


def test_the_list_of_sources_says_what_each_needs(capsys):
    assert main(["--list"]) == 0
    said = capsys.readouterr().out
    assert "reviews_<category>_5.json.gz" in said and "https://grouplens.org/datasets/movielens/1m/" in said


def test_a_gzip_with_two_members_is_read_to_its_end(tmp_path, raw):
    with (raw / "reviews_Beauty.json.gz").open("wb") as file:
        file.write(gzip.compress(GOOD.encode()) + gzip.compress(review("U2", "B1", 5).encode()))
    _, files = converted(tmp_path, "amazon-2014", "--category=Beauty", *FREE)
    assert len(files[".inter"]) == 3
