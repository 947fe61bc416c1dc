"""Yelp, Steam, and the files of other projects, written here in exactly their formats."""

import json

import pytest

from tests.corpus.convert.test_convert import FREE, converted, write


@pytest.fixture
def raw(tmp_path):
    folder = tmp_path / "raw"
    folder.mkdir()
    return folder


def test_yelp_counts_in_seconds_of_the_day(tmp_path, raw):
    reviews = [
        {"review_id": "r", "user_id": "u1", "business_id": "b2", "stars": 3.0, "useful": 0, "funny": 0, "cool": 0,
         "text": "fine", "date": "1970-01-02 00:00:07"},
        {"review_id": "r", "user_id": "u1", "business_id": "b1", "stars": 4.0, "useful": 0, "funny": 0, "cool": 0,
         "text": "ok", "date": "1970-01-01 00:01:00"},
    ]  # fmt: skip
    write(raw / "yelp_academic_dataset_review.json", "".join(json.dumps(row) + "\n" for row in reviews))
    shop = {"business_id": "b1", "name": 'Bar "X"', "address": "a", "city": "Tucson", "categories": "Bars, Nightlife"}
    write(raw / "yelp_academic_dataset_business.json", json.dumps(shop) + "\n")
    people = [{"user_id": name, "name": "Ann", "review_count": 9, "yelping_since": "2007-01-25 16:47:26"}
              for name in ("u1", "u7")]  # fmt: skip
    write(raw / "yelp_academic_dataset_user.json", "".join(json.dumps(row) + "\n" for row in people))
    code, files = converted(tmp_path, "yelp", *FREE)
    assert code == 0
    assert files[".user"] == [["user_id:token", "since:token"], ["u1", "2007"]], "nothing that test events are part of"
    assert files[".inter"][1:] == [["u1", "b1", "4", "60"], ["u1", "b2", "3", "86407"]]
    assert files[".item"] == [
        ["item_id:token", "title:token", "categories:token", "city:token"],
        ["b1", "Bar ''X''", "Bars, Nightlife", "Tucson"], ["b2", "", "", ""],
    ]  # fmt: skip


def test_a_yelp_review_of_no_day_is_malformed(tmp_path, raw):
    good = {"user_id": "u1", "business_id": "b1", "stars": 4.0, "date": "2018-07-07 22:09:11"}
    write(raw / "review.json", "".join(json.dumps(row) + "\n" for row in (good, {**good, "date": "yesterday"})))
    code, files = converted(tmp_path, "yelp", *FREE)
    assert code == 0 and files[".inter"][1:] == [["u1", "b1", "4", "1531001351"]]
    assert "line 2: date is 'yesterday'" in (tmp_path / "out" / "toy" / "README.md").read_text()


def test_steam_writes_python_and_knows_the_day(tmp_path, raw):
    write(
        raw / "steam_reviews.json.gz",
        "{u'username': u'Ann', u'hours': 3.5, u'product_id': u'725280', u'page_order': 0, u'date': u'1970-01-02', "
        "u'text': u'it\\'s \"ok\"', u'early_access': False, u'page': 1}\n"
        "{u'username': u'Bob', u'product_id': u'328100', u'date': u'1970-01-03', u'text': u''}\n",
    )
    write(
        raw / "steam_games.json.gz",
        "{u'publisher': u'Kotoshiro', u'genres': [u'Action', u'Indie'], u'app_name': u'Lost', u'id': u'725280'}\n"
        "{u'tags': [u'Free to Play'], u'title': u'Ironbound', u'developer': u'Secret', u'id': u'328100'}\n",
    )
    code, files = converted(tmp_path, "steam", *FREE)
    assert code == 0
    assert files[".inter"] == [
        ["user_id:token", "item_id:token", "timestamp:float"],
        ["Ann", "725280", "86400"], ["Bob", "328100", "172800"],
    ]  # fmt: skip
    assert files[".item"][1:] == [
        ["725280", "Lost", "Action, Indie", "Kotoshiro"], ["328100", "Ironbound", "Free to Play", "Secret"],
    ]  # fmt: skip


SEQUENCES = [["7", "3", "1", "3"], ["8", "2", "1"]]


def test_histories_of_onerec_think_have_places_for_times(tmp_path, raw):
    write(raw / "sequential_data_processed.txt", "".join(" ".join(row) + "\n" for row in SEQUENCES))
    texts = {
        name: {"title": f"Item {name}", "description": "d", "categories": "Beauty > Hair", "sid": "<|sid_begin|>"}
        for name in "123"
    }
    write(raw / "Beauty.pretrain.json", json.dumps(texts))
    code, files = converted(tmp_path, "onerec-think", *FREE)
    assert code == 0 and files[".inter"][0] == ["user_id:token", "item_id:token", "timestamp:float"]
    assert files[".inter"][1:] == [
        ["7", "3", "0"], ["7", "1", "1"], ["7", "3", "2"], ["8", "2", "0"], ["8", "1", "1"]
    ]  # fmt: skip
    assert files[".item"][1] == ["3", "Item 3", "Beauty > Hair"]


def test_p5_numbers_become_raw_ids_where_its_map_is_there(tmp_path, raw):
    write(raw / "sequential_data.txt", "1 2 1\n2 1\n")
    write(raw / "datamaps.json", json.dumps({"id2user": {"1": "A1", "2": "A2"}, "id2item": {"1": "B1", "2": "B2"}}))
    write(raw / "meta.json.gz", "{'asin': 'B2', 'title': 'Brush', 'brand': 'Z', 'categories': [['Beauty', 'Tools']]}\n")
    code, files = converted(tmp_path, "p5", *FREE)
    assert code == 0
    assert files[".inter"][1:] == [["A1", "B2", "0"], ["A1", "B1", "1"], ["A2", "B1", "0"]]
    assert files[".item"][1] == ["B2", "Brush", "Beauty > Tools", "Z"]
    (raw / "datamaps.json").unlink()
    _, files = converted(tmp_path, "p5", "--replace", *FREE)
    assert files[".inter"][1:] == [["1", "2", "0"], ["1", "1", "1"], ["2", "1", "0"]]


def test_where_there_are_no_times_the_card_says_so_and_days_cannot_be_asked_for(tmp_path, raw, capsys):
    write(raw / "sequential_data.txt", "1 2 1\n2 1\n")
    assert converted(tmp_path, "p5", *FREE)[0] == 0
    card = (tmp_path / "out" / "toy" / "README.md").read_text()
    assert "Histories come without times" in card and "first day" not in card
    assert converted(tmp_path, "p5", "--since=2014-01-01", "--replace", *FREE)[0] == 2
    assert "p5 has no times" in capsys.readouterr().err


def test_half_a_character_in_an_id_is_refused(tmp_path, raw, capsys):
    write(raw / "Games.inter.json", '{"0": ["x\\ud83d"]}')
    write(raw / "Games.item.json", "{}")
    assert converted(tmp_path, "lc-rec", *FREE)[0] == 2
    assert "half a character" in capsys.readouterr().err


def test_lc_rec_maps_users_to_lists_of_numbers(tmp_path, raw):
    write(raw / "Games.inter.json", json.dumps({"0": [5, 6], "1": [6]}))
    write(raw / "Games.item.json", json.dumps({"5": {"title": "Pad", "brand": "S", "categories": "Games,PC"}}))
    code, files = converted(tmp_path, "lc-rec", *FREE)
    assert code == 0
    assert files[".inter"][1:] == [["0", "5", "0"], ["0", "6", "1"], ["1", "6", "0"]]
    assert files[".item"][1:] == [["5", "Pad", "Games,PC", "S"], ["6", "", "", ""]]


def test_of_several_data_sets_in_a_folder_one_is_named(tmp_path, raw, capsys):
    for name in ("Arts", "Games"):
        write(raw / f"{name}.inter.json", json.dumps({"0": [name]}))
        write(raw / f"{name}.item.json", "{}")
    assert converted(tmp_path, "lc-rec", *FREE)[0] == 2
    assert "Arts.inter.json, Games.inter.json; name one by --category=" in capsys.readouterr().err
    _, files = converted(tmp_path, "lc-rec", "--category=Games", *FREE)
    assert files[".inter"][1:] == [["0", "Games", "0"]]


@pytest.mark.parametrize(
    ("text", "said"), [("{", "is not JSON"), ("[1]", "holds a list"), ('{"0": 7}', "every user to a list")]
)
def test_a_file_of_another_shape_is_refused(tmp_path, raw, capsys, text, said):
    write(raw / "Games.inter.json", text)
    write(raw / "Games.item.json", "{}")
    assert converted(tmp_path, "lc-rec", *FREE)[0] == 2
    assert said in capsys.readouterr().err and not list((tmp_path / "out").iterdir())


def test_a_user_without_items_is_malformed(tmp_path, raw):
    write(raw / "sequential_data.txt", "1 2 1\n2\n")
    code, files = converted(tmp_path, "p5", *FREE)
    assert code == 0 and len(files[".inter"]) == 3
    assert "line 2: a user without items" in (tmp_path / "out" / "toy" / "README.md").read_text()
