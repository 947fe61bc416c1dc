"""The command in the header of a data set's YAML makes it, and RecBole loads what it makes."""

import json
import shlex
from pathlib import Path

import pytest

from recbole_think.corpus.convert.__main__ import main
from recbole_think.experiment import run
from recbole_think.paths import properties_dir
from tests.corpus.convert.test_convert import review, write
from tests.corpus.convert.test_split import write_csv

MODULE = "recbole_think.corpus.convert"
HEADERS = {
    path.stem: line.partition(MODULE)[2].split()
    for path in sorted((properties_dir() / "dataset").glob("*.yaml"))
    for line in path.read_text(encoding="utf-8").splitlines()
    if MODULE in line
}
RING = [(user, (user + at) % 12, at) for user in range(24) for at in range(6)]
IN_2019 = 1546300800


def fill(raw: Path, source: str, category: str) -> None:
    """Write a ring of 24 users and 12 items as a publisher would."""
    raw.mkdir()
    if source == "ml-1m":
        write(raw / "ratings.dat", "".join(f"{user + 1}::{item + 1}::5::{at}\n" for user, item, at in RING))
        write(raw / "movies.dat", "".join(f"{item + 1}::Film {item} (1990)::Drama\n" for item in range(12)))
        write(raw / "users.dat", "")
    elif source == "yelp":
        rows = [{"user_id": f"u{user}", "business_id": f"b{item}", "stars": 4.0, "date": f"2019-05-0{at + 1} 10:00:00"}
                for user, item, at in RING]  # fmt: skip
        early = [{**rows[0], "date": "2018-12-31 23:59:59"}, {**rows[0], "date": "2020-01-01 00:00:00"}]
        write(raw / "yelp_academic_dataset_review.json", "".join(json.dumps(row) + "\n" for row in rows + early))
        shops = [{"business_id": f"b{item}", "name": f"Bar {item}", "categories": "Bars"} for item in range(12)]
        write(raw / "yelp_academic_dataset_business.json", "".join(json.dumps(row) + "\n" for row in shops))
    elif source == "minionerec":
        for part, places in (("train", (1, 2, 3)), ("valid", (4,)), ("test", (5,))):
            rows = [(f"A{user}", [(user + before) % 12 for before in range(at)], item)
                    for user, item, at in RING if at in places]  # fmt: skip
            write_csv(raw / part / f"{category}_5_2016-10-2018-11.csv", rows)
        (raw / "index").mkdir()
        write(raw / "index" / f"{category}.item.json", json.dumps({str(item): {"title": f"Thing {item}", "brand": "",
              "categories": ""} for item in range(12)}))  # fmt: skip
    else:
        text = "".join(review(f"U{user}", f"B{item}", IN_2019 + at) for user, item, at in RING)
        write(raw / f"reviews_{category}_5.json.gz", text)
        products = [f"{{'asin': 'B{item}', 'title': 'Thing {item}', 'categories': [['All']]}}\n" for item in range(12)]
        write(raw / f"meta_{category}.json.gz", "".join(products))


def test_data_sets_that_papers_use_have_a_yaml_and_a_command():
    assert set(HEADERS) >= {"beauty", "sports", "toys", "yelp", "ml-1m", "industrial", "office"}


@pytest.mark.parametrize("name", HEADERS)
def test_the_command_in_the_header_makes_the_data_set(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = [word for word in HEADERS[name] if word != "--download" and not word.startswith(("--raw=", "--out="))]
    category = next((word.partition("=")[2] for word in words if word.startswith("--category=")), "")
    fill(tmp_path / "raw", words[0], category)
    assert main([*words, f"--raw={tmp_path / 'raw'}", f"--out={tmp_path / 'data'}", "--quiet"]) == 0
    figures = json.loads((tmp_path / "data" / name / "statistics.json").read_text())
    assert (figures["users"], figures["items"], figures["events"]) == (24, 12, len(RING)), shlex.join(words)
    given = {"data_path": str(tmp_path / "data"), "show_progress": False, "topk": [5, 10]}
    metrics = run("Pop", name, config_dict=given)["metrics"]
    assert metrics["users"] == 24 and metrics["dataset"] == name
