"""Publishers' files, written here in exactly their formats, become atomic files; what is wrong with them is said."""

import gzip
import json
import zipfile
from pathlib import Path

import pytest

from recbole_think.corpus.convert.__main__ import FIGURES, main

FREE = ("--user_core=0", "--item_core=0", "--quiet")


def lines(path: Path) -> list[list[str]]:
    return [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines()]


def converted(tmp_path, *argv):
    """Run the command on tmp_path/raw and give the rows of each file it wrote, header first."""
    code = main([*argv, f"--raw={tmp_path / 'raw'}", f"--out={tmp_path / 'out'}", "--name=toy"])
    folder = tmp_path / "out" / "toy"
    return code, {path.suffix: lines(path) for path in folder.glob("toy.*")}


@pytest.fixture
def raw(tmp_path):
    folder = tmp_path / "raw"
    folder.mkdir()
    return folder


def write(path: Path, text: str, encoding="utf-8") -> Path:
    opened = gzip.open(path, "wt", encoding=encoding) if path.suffix == ".gz" else path.open("w", encoding=encoding)
    with opened as file:
        file.write(text)
    return path


def review(user, item, time, rating=5.0, **more):
    """A line of Amazon's reviews of 2014 and 2018."""
    return json.dumps(
        {"reviewerID": user, "asin": item, "reviewerName": "Ann \"A\" B", "helpful": [0, 0], "reviewText": 'say "asin"',
         "overall": rating, "summary": "Nice", "unixReviewTime": time, "reviewTime": "01 30, 2014", **more}
    ) + "\n"  # fmt: skip


PRODUCT_2014 = (
    "{'asin': 'B1', 'title': 'Nail \"Red\"\\tPolish &amp; more', 'price': 3.5, 'imUrl': 'http://x', "
    "'related': {'also_bought': ['B2']}, 'brand': 'OPI', 'categories': [['Beauty', 'Makeup'], ['Gifts']]}\n"
    "{'asin': 'B9', 'title': 'never met', 'categories': [['Beauty']]}\n"
    "{'asin': 'B2', 'categories': [['Beauty']]}\n"
)


def test_amazon_2014_has_python_literals_for_products(tmp_path, raw):
    write(
        raw / "reviews_Beauty_5.json.gz", review("U1", "B1", 200) + review("U2", "B1", 300) + review("U1", "B2", 100, 3)
    )
    write(raw / "meta_Beauty.json.gz", PRODUCT_2014)
    code, files = converted(tmp_path, "amazon-2014", "--category=Beauty", *FREE)
    assert code == 0
    assert files[".inter"] == [
        ["user_id:token", "item_id:token", "rating:float", "timestamp:float"],
        ["U1", "B2", "3", "100"], ["U1", "B1", "5", "200"], ["U2", "B1", "5", "300"],
    ]  # fmt: skip
    assert files[".item"] == [
        ["item_id:token", "categories:token", "title:token", "brand:token"],
        ["B2", "Beauty", "", ""], ["B1", "Beauty > Makeup", "Nail ''Red'' Polish & more", "OPI"],
    ]  # fmt: skip
    assert ".user" not in files


def test_amazon_2018_has_json_for_products_and_ratings_alone_by_item(tmp_path, raw):
    write(raw / "All_Beauty_5.json", review("U1", "B1", 100, verified=True, style={"Size:": " 1oz"}))
    product = {"category": ["All Beauty", "Hair"], "tech1": "", "description": ["x"], "title": "<b>Comb</b>",
               "brand": "Z", "also_buy": [], "asin": "B1"}  # fmt: skip
    write(raw / "meta_All_Beauty.json.gz", json.dumps(product) + "\n")
    _, files = converted(tmp_path, "amazon-2018", "--category=All_Beauty", *FREE)
    assert files[".item"][1:] == [["B1", "Comb", "All Beauty > Hair", "Z"]]
    (raw / "All_Beauty_5.json").unlink()
    write(raw / "All_Beauty.csv", "B1,U7,4.0,500\nB2,U7,2.0,400\n")
    _, files = converted(tmp_path, "amazon-2018", "--category=All_Beauty", "--replace", *FREE)
    assert files[".inter"][1:] == [["U7", "B2", "2", "400"], ["U7", "B1", "4", "500"]]


def test_amazon_2023_counts_in_milliseconds_and_knows_items_by_their_parent(tmp_path, raw):
    row = {"rating": 5.0, "title": "t", "text": "x", "images": [], "asin": "B1a", "parent_asin": "B1", "user_id": "AG1",
           "timestamp": 1588687728923, "helpful_vote": 0, "verified_purchase": True}  # fmt: skip
    write(raw / "All_Beauty.jsonl.gz", json.dumps(row) + "\n")
    product = {"main_category": "All Beauty", "title": "Spray", "average_rating": 4.8, "features": [], "store": "Herbs",
               "categories": [], "details": {}, "parent_asin": "B1", "bought_together": None}  # fmt: skip
    write(raw / "meta_All_Beauty.jsonl.gz", json.dumps(product) + "\n")
    _, files = converted(tmp_path, "amazon-2023", "--category=All_Beauty", *FREE)
    assert files[".inter"][1:] == [["AG1", "B1", "5", "1588687728"]]
    assert files[".item"] == [
        ["item_id:token", "title:token", "categories:token", "brand:token"], ["B1", "Spray", "All Beauty", "Herbs"]
    ]  # fmt: skip
    write(raw / "All_Beauty.csv", "user_id,parent_asin,rating,timestamp\nAG2,B1,1.0,1588687728923\n")
    (raw / "All_Beauty.jsonl.gz").unlink()
    _, files = converted(tmp_path, "amazon-2023", "--category=All_Beauty", "--replace", *FREE)
    assert files[".inter"][1:] == [["AG2", "B1", "1", "1588687728"]]


def test_items_without_a_title_or_with_a_long_one_leave_before_a_core_is_taken(tmp_path, raw, capsys):
    """U2 has two events, of which one is with an item whose title is too long: a core of two takes U2 away."""
    events = [("U1", "B1", 1), ("U1", "B2", 2), ("U1", "B3", 3), ("U1", "B4", 4), ("U2", "B1", 5), ("U2", "B2", 6)]
    write(raw / "reviews_Beauty.json", "".join(review(*event) for event in events))
    titles = {"B1": "Red polish", "B2": "Polish that is red", "B3": "", "B4": "Red"}
    write(
        raw / "meta_Beauty.json",
        "".join(f"{{'asin': '{name}', 'title': '{title}'}}\n" for name, title in titles.items()),
    )
    core = ("--user_core=2", "--item_core=0", "--quiet")
    _, files = converted(tmp_path, "amazon-2014", "--category=Beauty", "--title_words=3", *core)
    assert [row[:2] for row in files[".inter"][1:]] == [["U1", "B1"], ["U1", "B4"]]
    assert [row[0] for row in files[".item"][1:]] == ["B1", "B4"]
    card = (tmp_path / "out" / "toy" / "README.md").read_text()
    assert "| titles of 1 to 3 words | 3 | 2 | 2 |" in card and card.count("meta_Beauty.json`") == 1
    _, files = converted(tmp_path, "amazon-2014", "--category=Beauty", "--title_words=4", "--replace", *core)
    assert [row[:2] for row in files[".inter"][1:]][-2:] == [["U2", "B1"], ["U2", "B2"]]
    code, _ = converted(tmp_path, "amazon-2014", "--category=Beauty", "--title_words=-1", "--replace", *core)
    assert code == 2 and "--title_words must not be negative, got -1" in capsys.readouterr().err


def test_movielens_100k_is_read_from_its_zip_or_unpacked(tmp_path, raw):
    flags = ["0"] * 19
    flags[5] = flags[14] = "1"
    film = f"1|Amélie, La (1995)|01-Jan-1995||http://x|{'|'.join(flags)}\n2|unknown||||{'|'.join(['1'] + ['0'] * 18)}\n"
    parts = {
        "u.data": "7\t1\t3\t881250949\n7\t2\t5\t881250948\n", "u.item": film, "u.user": "7|24|M|technician|85711\n"
    }  # fmt: skip
    with zipfile.ZipFile(raw / "ml-100k.zip", "w") as archive:
        for name, text in parts.items():
            archive.writestr(f"ml-100k/{name}", text.encode("latin-1"))
    _, zipped = converted(tmp_path, "ml-100k", *FREE)
    assert zipped[".inter"][1:] == [["7", "2", "5", "881250948"], ["7", "1", "3", "881250949"]]
    assert zipped[".item"][1:] == [["2", "unknown", "unknown", ""], ["1", "Amélie, La", "Comedy Romance", "1995"]]
    assert zipped[".item"][0] == ["item_id:token", "title:token", "genres:token", "year:token"]
    assert zipped[".user"] == [
        ["user_id:token", "age:token", "gender:token", "occupation:token"], ["7", "24", "M", "technician"]
    ]  # fmt: skip
    (raw / "ml-100k.zip").unlink()
    for name, text in parts.items():
        write(raw / name, text, "latin-1")
    assert converted(tmp_path, "ml-100k", "--replace", *FREE)[1] == zipped


def test_movielens_1m_has_two_colons_and_codes_for_people(tmp_path, raw):
    write(raw / "ratings.dat", "1::1193::5::978300760\n1::661::3::978302109\n")
    write(raw / "movies.dat", "1193::One Flew: Nest (1975)::Drama\n661::Café (1996)::Children's|Musical\n", "latin-1")
    write(raw / "users.dat", "1::F::1::10::48067\n")
    _, files = converted(tmp_path, "ml-1m", *FREE)
    assert files[".inter"][1:] == [["1", "1193", "5", "978300760"], ["1", "661", "3", "978302109"]]
    assert files[".item"][1:] == [
        ["1193", "One Flew: Nest", "1975", "Drama"],
        ["661", "Café", "1996", "Children's Musical"],
    ]
    assert files[".user"][1:] == [["1", "under 18", "F", "K-12 student"]]


@pytest.mark.parametrize("size", ["20m", "32m"])
def test_the_large_movielens_are_csv_with_headers_and_quotes(tmp_path, raw, size):
    with zipfile.ZipFile(raw / f"ml-{size}.zip", "w") as archive:
        archive.writestr(f"ml-{size}/ratings.csv", "userId,movieId,rating,timestamp\n1,2,3.5,1112486027\n")
        films = 'movieId,title,genres\r\n2,"American President, The (1995)",Comedy|Drama\r\n3,X,(no genres listed)\r\n'
        archive.writestr(f"ml-{size}/movies.csv", films)
    _, files = converted(tmp_path, f"ml-{size}", *FREE)
    assert files[".inter"][1:] == [["1", "2", "3.5", "1112486027"]]
    assert files[".item"][1:] == [["2", "American President, The", "1995", "Comedy Drama"]]


def test_filters_leave_a_core_and_the_card_says_what_each_left_out(tmp_path, raw):
    ring = "".join(
        f"{user}::{item}::{5 if user < 4 else 2}::{10 * user + item}\n" for user in range(5) for item in range(3)
    )
    write(raw / "ratings.dat", ring + "9::0::5::1\n1::77::5::2\n")
    write(raw / "movies.dat", "".join(f"{item}::Film {item} (1990)::Drama\n" for item in range(3)))
    write(raw / "users.dat", "")
    code, files = converted(tmp_path, "ml-1m", "--user_core=3", "--item_core=3", "--min_rating=3", "--quiet")
    assert code == 0 and len(files[".inter"]) == 1 + 4 * 3
    assert {row[0] for row in files[".inter"][1:]} == {"0", "1", "2", "3"}
    card = (tmp_path / "out" / "toy" / "README.md").read_text()
    assert "| as published | 17 | 6 | 4 |" in card
    assert "| rating of 3 and more | 14 | 5 | 4 |" in card
    assert "| 3-core of users, 3-core of items | 12 | 4 | 3 |" in card
    assert "grouplens.org" in card and "sha256" in card and "recbole_think.corpus.convert ml-1m" in card
    figures = json.loads((tmp_path / "out" / "toy" / FIGURES).read_text())
    assert (figures["users"], figures["items"], figures["events"], figures["density"]) == (4, 3, 12, 1.0)
    assert figures["items with a title"] == 3 and figures["first day"] == "1970-01-01"


def test_a_user_or_item_that_a_core_takes_away_may_take_others_with_it(tmp_path, raw):
    # b has two events, one of them with y, which has two with b: one user leaves, and the chain falls
    write(raw / "ratings.dat", "a::x::5::1\na::y::5::2\nb::y::5::3\nb::z::5::4\nc::z::5::5\n")
    code, _ = converted(tmp_path, "ml-1m", "--user_core=2", "--item_core=2", "--quiet")
    assert code == 2 and not (tmp_path / "out" / "toy").exists()


def test_equal_times_stay_in_the_order_of_the_file_and_may_become_places(tmp_path, raw):
    write(raw / "ratings.dat", "2::9::5::50\n1::3::5::70\n1::1::5::70\n1::2::5::60\n2::8::5::50\n")
    write(raw / "movies.dat", "1::A (1990)::Drama\n")
    write(raw / "users.dat", "")
    _, files = converted(tmp_path, "ml-1m", *FREE)
    assert [row[:2] for row in files[".inter"][1:]] == [["2", "9"], ["2", "8"], ["1", "2"], ["1", "3"], ["1", "1"]]
    figures = json.loads((tmp_path / "out" / "toy" / FIGURES).read_text())
    assert figures["share of events at the time of another one of the user"] == 0.8
    assert figures["users with fewer than three events (leave one out cannot test them)"] == 1
    _, files = converted(tmp_path, "ml-1m", "--ties=position", "--replace", *FREE)
    assert [row[3] for row in files[".inter"][1:]] == ["0", "1", "0", "1", "2"]


@pytest.mark.parametrize(("repeats", "kept"), [("first", "10"), ("last", "30")])
def test_of_repeated_items_the_first_or_last_event_can_be_kept(tmp_path, raw, repeats, kept):
    write(raw / "ratings.dat", "1::5::4::30\n1::6::4::20\n1::5::4::10\n")
    write(raw / "movies.dat", "")
    write(raw / "users.dat", "")
    _, files = converted(tmp_path, "ml-1m", f"--repeats={repeats}", *FREE)
    assert sorted(row[3] for row in files[".inter"][1:]) == sorted([kept, "20"])


def test_days_cut_at_midnight_in_greenwich(tmp_path, raw):
    day = 86400
    write(raw / "ratings.dat", f"1::1::4::{day - 1}\n1::2::4::{day}\n1::3::4::{2 * day - 1}\n1::4::4::{2 * day}\n")
    write(raw / "movies.dat", "")
    write(raw / "users.dat", "")
    _, files = converted(tmp_path, "ml-1m", "--since=1970-01-02", "--until=1970-01-03", *FREE)
    assert [row[1] for row in files[".inter"][1:]] == ["2", "3"]


def test_what_is_converted_can_be_trained_on(tmp_path, raw):
    from recbole_think.experiment import run

    ring = "".join(f"u{user}::p{(user + at) % 12}::5::{at}\n" for user in range(36) for at in range(8))
    write(raw / "ratings.dat", ring)
    write(raw / "movies.dat", "".join(f"p{item}::Place {item} (1990)::Drama\n" for item in range(12)))
    write(raw / "users.dat", "")
    assert converted(tmp_path, "ml-1m", "--quiet")[0] == 0
    given = {"data_path": str(tmp_path / "out"), "run_folder": str(tmp_path / "run"), "show_progress": False,
             "topk": [5, 10]}  # fmt: skip
    assert run("CoOccurrence", "toy", config_dict=given)["metrics"]["users"] == 36
