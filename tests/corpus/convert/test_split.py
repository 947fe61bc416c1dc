"""Data sets in three parts: cut by time, or as MiniOneRec ships them, written here in exactly its format."""

import csv

import numpy as np
import pytest

from recbole_think.corpus.convert.events import Events
from recbole_think.corpus.convert.split import LONGEST, by_time, write_split
from recbole_think.errors import InputError
from tests.corpus.convert.test_convert import FREE, converted, lines, review, write

COLUMNS = ["user_id", "history_item_title", "item_title", "history_item_id", "item_id", "history_item_sid", "item_sid"]
MINI = ("minionerec", "--category=Toys", "--quiet")


@pytest.fixture
def raw(tmp_path):
    folder = tmp_path / "raw"
    folder.mkdir()
    return folder


def write_csv(path, rows):
    """Rows of (user, items before, item) as MiniOneRec's script writes them with Python's csv."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for user, met, item in rows:
            titles = [f'Thing, {one}\n"x"' for one in met]
            writer.writerow([user, titles, f"Thing {item}", met, item, [f"<a_{one}>" for one in met], f"<a_{item}>"])


def events(user, item, time):
    return Events(
        [f"u{n}" for n in range(max(user) + 1)], [f"i{n}" for n in range(max(item) + 1)], np.array(user, np.int32),
        np.array(item, np.int32), np.full(len(user), np.nan, np.float32), np.array(time, np.int64),
    )  # fmt: skip


def spelt(split, part):
    """Rows of a part as (user, items before, item)."""
    rows = split.parts[part]
    return [
        (split.users[user], [split.items[met] for met in rows.history[rows.starts[n] : rows.starts[n + 1]]],
         split.items[item])
        for n, (user, item) in enumerate(zip(rows.user, rows.item, strict=True))
    ]  # fmt: skip


def test_of_ten_rows_the_latest_is_tested_and_the_one_before_validates():
    user, item = [0] * 6 + [1] * 6, [0, 1, 2, 3, 4, 5, 5, 4, 3, 2, 1, 0]
    split = by_time(events(user, item, [1, 2, 3, 4, 5, 20, 6, 7, 8, 9, 10, 15]))
    assert spelt(split, "test") == [("u0", ["i0", "i1", "i2", "i3", "i4"], "i5")]
    assert spelt(split, "valid") == [("u1", ["i5", "i4", "i3", "i2", "i1"], "i0")]
    assert spelt(split, "train")[0] == ("u0", ["i0"], "i1")
    assert [row[0] for row in spelt(split, "train")] == ["u0"] * 4 + ["u1"] * 4, "in order of time"


def test_equal_times_are_cut_in_the_order_of_the_events():
    split = by_time(events([0] * 11, list(range(11)), [7] * 11))
    assert [item for _, _, item in spelt(split, "valid") + spelt(split, "test")] == ["i9", "i10"]


def test_a_row_names_the_latest_items_before_it():
    count = LONGEST + 20
    split = by_time(events([0] * count, list(range(count)), list(range(count))))
    _, met, item = spelt(split, "test")[-1]
    assert item == f"i{count - 1}" and met == [f"i{n}" for n in range(count - 1 - LONGEST, count - 1)]


def test_too_few_events_cannot_be_cut_in_three():
    with pytest.raises(InputError, match="2 events have one before them: too few"):
        by_time(events([0] * 3, [0, 1, 2], [0, 1, 2]))


def test_a_blank_in_an_items_id_would_part_a_list(tmp_path):
    split = by_time(events([0] * 11, list(range(11)), [7] * 11))
    with pytest.raises(InputError, match="item 'a b' has a blank"):
        write_split(tmp_path, "toy", split, split.users, ["a b", *split.items[1:]])


def test_reviews_are_cut_by_time_and_the_card_says_how_to_load_them(tmp_path, raw):
    text = "".join(review(f"U{user}", f"B{at % 4}", 100 * at + user) for user in range(4) for at in range(6))
    write(raw / "reviews_Beauty_5.json.gz", text)
    write(raw / "meta_Beauty.json.gz", "{'asin': 'B1', 'title': 'One'}\n")
    assert converted(tmp_path, "amazon-2014", "--category=Beauty", "--split=time", *FREE)[0] == 0
    folder = tmp_path / "out" / "toy"
    assert not (folder / "toy.inter").exists()
    found = {part: lines(folder / f"toy.{part}.inter") for part in ("train", "valid", "test")}
    assert [len(rows) - 1 for rows in found.values()] == [16, 2, 2]
    assert found["test"] == [
        ["user_id:token", "item_id_list:token_seq", "item_id:token"],
        ["U2", "B0 B1 B2 B3 B0", "B1"], ["U3", "B0 B1 B2 B3 B0", "B1"],
    ]  # fmt: skip
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "benchmark_filename: [train, valid, test]" in card and "| rows: train | 16 |" in card


def test_minionerecs_rows_stay_in_the_parts_they_come_in(tmp_path, raw):
    write_csv(raw / "train" / "Toys_5_2016-10-2018-11.csv", [("A7", [3], 4), ("A7", [3, 4], 5), ("A2", [5], 3)])
    write_csv(raw / "valid" / "Toys_5_2016-10-2018-11.csv", [("A7", [3, 4, 5], 3)])
    write_csv(raw / "test" / "Toys_5_2016-10-2018-11.csv", [("A7", [3, 4, 5, 3], 9), ("A7", [3, 4, 5, 3, 9], 4)])
    (raw / "index").mkdir()
    write(raw / "index" / "Toys.item.json", '{"3": {"title": "Ball", "brand": "X"}, "77": {"title": "never met"}}')
    code, files = converted(tmp_path, *MINI)
    folder = tmp_path / "out" / "toy"
    assert code == 0
    assert lines(folder / "toy.train.inter")[1:] == [["A7", "3", "4"], ["A7", "3 4", "5"], ["A2", "5", "3"]]
    assert lines(folder / "toy.valid.inter")[1:] == [["A7", "3 4 5", "3"]]
    assert lines(folder / "toy.test.inter")[1:] == [["A7", "3 4 5 3", "9"], ["A7", "3 4 5 3 9", "4"]]
    assert files[".item"] == [["item_id:token", "title:token", "brand:token"], ["3", "Ball", "X"], ["4", "", ""],
                              ["5", "", ""], ["9", "", ""]]  # fmt: skip
    assert lines(folder / "toy.item2id") == [["3", "3"], ["4", "4"], ["5", "5"], ["9", "9"]], "as its codes call them"
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "| events | 8 |" in card and "| rows: test | 2 |" in card and "| users that are tested | 1 |" in card
    assert "`test/Toys_5_2016-10-2018-11.csv`" in card


def test_rows_without_a_history_are_malformed(tmp_path, raw):
    for part in ("train", "valid", "test"):
        write_csv(raw / part / "Toys_5.csv", [("A1", [3], 4), ("A1", [], 5), ("", [3], 4)])
    with (raw / "train" / "Toys_5.csv").open("a") as file:
        file.write('A1,[],x,"not a list",4,[],x\n')
    (raw / "index").mkdir()
    write(raw / "index" / "Toys.item.json", "{}")
    assert converted(tmp_path, *MINI)[0] == 0
    card = (tmp_path / "out" / "toy" / "README.md").read_text(encoding="utf-8")
    assert "could not be used: 7" in card and "line 3: not a user, a list of items before, and an item" in card


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--user_core=3"], "comes split and is kept as it is"),
        (["--split=time"], "comes split and is kept as it is"),
        (["--split=users"], "--split must be one of none, time"),
    ],
)
def test_what_comes_split_is_neither_filtered_nor_split(more, said, tmp_path, raw, capsys):
    assert converted(tmp_path, *MINI, *more)[0] == 2
    assert said in capsys.readouterr().err


def test_a_part_that_lacks_is_named(tmp_path, raw, capsys):
    write_csv(raw / "train" / "Toys_5.csv", [("A1", [3], 4)])
    assert converted(tmp_path, *MINI)[0] == 2
    assert "should hold one file valid/Toys*.csv; it holds none" in capsys.readouterr().err
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize("broken", [b"user_id,item_id\nA1,3\n", b"\xff\xfe,\n", b""])
def test_a_part_of_another_shape_is_refused(broken, tmp_path, raw, capsys):
    for part in ("train", "valid", "test"):
        write_csv(raw / part / "Toys_5.csv", [("A1", [3], 4)])
    (raw / "valid" / "Toys_5.csv").write_bytes(broken)
    assert converted(tmp_path, *MINI)[0] == 2
    err = capsys.readouterr().err
    assert "Toys_5.csv" in err and err.startswith("error: ")


def test_histories_without_times_are_not_cut_by_time(tmp_path, raw, capsys):
    assert converted(tmp_path, "p5", "--split=time", *FREE)[0] == 2
    assert "has no times" in capsys.readouterr().err
