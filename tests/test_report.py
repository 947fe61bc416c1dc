import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest

from recbole_think import report
from recbole_think.errors import InputError
from recbole_think.experiment import run
from recbole_think.leaderboard import rows
from recbole_think.record import read_ranks
from recbole_think.report import main, write_report
from tests.browser import opened as in_browser
from tests.pages import EVIL, TABLE, Page, finished, metrics, read
from tests.toy import N_ITEMS, run_opened, settings, title, walks


@pytest.fixture(autouse=True)
def results(tmp_path, monkeypatch):
    """An empty folder of committed results, away from which nothing is written."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(rows, "results_dir", lambda: tmp_path / "results")
    return tmp_path / "results"


@pytest.fixture(scope="module")
def ours(toy_path, tmp_path_factory):
    """A run of our model through the public entry."""
    folder = tmp_path_factory.mktemp("ours") / "run"
    return run_opened("OneRecThink", settings("OneRecThink", toy_path, folder, mask_history=True))


def test_a_run_of_our_model_ends_with_a_report_of_every_section(ours):
    page = Page((Path(ours.result["run_folder"]) / "report.html").read_text(encoding="utf-8"))
    assert page.sections == ["results", "quarters", "thinking", "cases", "stages", "codes", "map", "alignment", "made"]
    assert {"board-ndcg@10", "history_length-recall", "target_count-ndcg", "stage-0", "codes-0", "map"} <= set(
        page.charts
    )
    assert {"thinking-ndcg@10", "thinking-recall@10"} <= set(page.charts)
    assert page.text.count("Thought:") == 2 * len(ours.metrics["samples"]), "two of each shown user's thoughts"
    assert f"{ours.metrics['test']['ndcg@10']:.4f}" in page.text
    assert page.text.count("Met next:") == 20 == len(ours.metrics["samples"])
    for place in range(2):
        levels = np.array([row for row in page.charts[f"codes-{place}"]["data"][0]["z"]], dtype=float)
        assert np.nansum(levels) == N_ITEMS, "every item has one code per level"
    shown = [
        point for trace in page.charts["map"]["data"] if trace["meta"] == "category" for point in trace["customdata"]
    ]
    assert len(shown) == N_ITEMS == len({spelled for _, _, spelled in shown})


def test_ranks_tell_how_long_a_history_is_and_how_often_its_target_was_trained_on(ours):
    world = walks()
    trained = [raw for visited in world.values() for raw in visited[:-2]]
    with (Path(ours.result["run_folder"]) / "ranks.tsv").open() as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    assert len(rows) == len(world)
    for row in rows:
        assert int(row["history_length"]) == len(world[row["user_id"]]) - 1
        assert int(row["target_count"]) == trained.count(world[row["user_id"]][-1])


def test_a_sample_says_at_which_place_its_target_stands(ours):
    ranks = read_ranks(Path(ours.result["run_folder"]) / "ranks.tsv")
    for sample in ours.metrics["samples"]:
        assert sample["rank"] == ranks[sample["user"]][0]
        if 0 < sample["rank"] <= len(sample["recommended"]):
            assert sample["recommended"][sample["rank"] - 1] == sample["target"] == title(walks()[sample["user"]][-1])


def test_a_finished_run_gets_its_report_back_and_keeps_one_it_has(toy_path, tmp_path):
    options = settings("Pop", toy_path, tmp_path / "run")
    run("Pop", "toy", config_dict=options)
    page = tmp_path / "run" / "report.html"
    assert read(tmp_path / "run").sections == ["results", "quarters", "cases", "made"], "no codes, no stages"
    page.write_text("kept")
    run("Pop", "toy", config_dict=options)
    assert page.read_text() == "kept"
    page.unlink()
    run("Pop", "toy", config_dict=options)
    assert "Pop on toy" in page.read_text(encoding="utf-8")


def test_the_page_opens_in_a_browser_without_a_problem_and_asks_for_nothing_else(tmp_path):
    page = write_report(
        finished(tmp_path / "run", alignment={"multi_task": {"captions": [{"title": "a", "caption": "b"}]}})
    )
    seen = in_browser(page)
    assert seen.problems == []
    assert seen.requests == ["/report.html"]
    assert set(seen.drawn) == {f"chart-{name}" for name in Page(page.read_text(encoding="utf-8")).charts}


def test_the_browser_of_these_tests_would_see_a_problem(tmp_path):
    page = tmp_path / "broken.html"
    page.write_text("<!doctype html><body><script>alert('out')</script><script>Plotly.react()</script></body>")
    problems = in_browser(page).problems
    assert problems[0] == "alert: out" and "Plotly" in problems[1]


def test_words_of_the_data_stay_words(tmp_path):
    more = {
        "alignment": {EVIL: {"captions": [{"title": EVIL, "text": EVIL, "caption": EVIL}], EVIL: 1.0}},
        "perplexity": [{"after": EVIL, "perplexity": 2.0}],
    }
    path = write_report(finished(tmp_path / "run", EVIL, **more))
    page = Page(path.read_text(encoding="utf-8"))
    assert len(page.scripts) == 3, "the data, plotly and ours"
    [data] = [script for script in page.scripts if script.startswith("{")]
    assert "<" not in data, "nothing in the data can end its script"
    assert not [tag for tag, _ in page.tags if tag in ("img", "iframe", "object", "embed", "form")]
    assert not [name for _, facts in page.tags for name in facts if name.startswith("on")]
    assert page.text.count(" ".join(EVIL.split())) > 20, "and are shown as they are"
    assert "49" not in re.findall(r"x=x.{0,40}", page.text)
    assert in_browser(path).problems == []


def test_plotly_is_given_words_without_tags(tmp_path):
    charts = read(finished(tmp_path / "run", EVIL)).charts
    texts = json.dumps(
        [
            [trace.get("name"), trace.get("customdata"), trace.get("y")]
            for chart in charts.values()
            for trace in chart["data"]
        ]
    )
    assert "&lt;/script&gt;" in texts
    assert "<" not in texts
    templates = [trace.get("hovertemplate") or "" for chart in charts.values() for trace in chart["data"]]
    axes = [
        str(axis.get("title", {}).get("text"))
        for chart in charts.values()
        for key, axis in chart["layout"].items()
        if "axis" in key
    ]
    assert not [text for text in templates + axes if re.search(r"<(?!/?b>|br>|extra>|/extra>)", text)]


def test_nothing_is_fetched_and_only_our_scripts_may_run(tmp_path):
    page = read(finished(tmp_path / "run"))
    links = [
        facts[name] for _, facts in page.tags for name in ("src", "href", "action", "data", "srcset") if name in facts
    ]
    assert links and all(link.startswith(("#", "data:,")) for link in links)
    style = (report.PAGE / "style.css").read_text(encoding="utf-8")
    assert "url(" not in style and "@import" not in style
    [policy] = [facts["content"] for _, facts in page.tags if "Security" in facts.get("http-equiv", "")]
    assert policy.startswith("default-src 'none'")
    allowed = set(re.findall(r"'sha256-([^']+)'", policy))
    assert allowed == {report._digest(script) for script in page.scripts if not script.startswith("{")}
    assert "unsafe" not in policy.split("script-src")[1]


def test_a_catalogue_without_categories_is_mapped_by_code_alone(tmp_path):
    folder = finished(tmp_path / "run")
    path = folder / "itemic" / "map.tsv"
    rows = [line.split("\t") for line in path.read_text().splitlines()]
    path.write_text(
        "\n".join("\t".join([*row[:2], "", *row[3:]]) for row in rows).replace("title\t\t", "title\tcategory\t")
    )
    page = read(folder)
    [points] = page.charts["map"]["data"]
    assert points["visible"] is True and points["marker"]["color"] == TABLE[:, 0].tolist()
    assert "By category" not in page.text


def test_numbers_that_are_none_are_shown_as_a_dash(tmp_path):
    page = read(finished(tmp_path / "run"))
    assert "nan" not in page.text.lower().replace("finance", "") and "± –" in page.text
    assert page.charts, "and the data of the charts is JSON"


def test_what_the_folder_does_not_tell_is_left_out(tmp_path):
    bare = tmp_path / "bare"
    bare.mkdir()
    given = metrics(stages=[], samples=None, illegal_rate=None, train_tokens=None)
    del given["command"], given["repeated_target_share"]
    (bare / "metrics.json").write_text(json.dumps(given))
    page = read(bare)
    assert page.sections == ["results", "made"] and page.charts == {}
    assert "illegal" not in page.text


def test_hits_are_marked_by_their_place_and_by_title_in_older_records(tmp_path):
    folder = finished(tmp_path / "run")
    text = read(folder).text
    assert "3. " not in text
    assert "✓ hit at 2" in text and text.count("Same ✓") == 1, "of two items of one title the second was the hit"
    assert [tag for tag, facts in read(folder).tags if facts.get("class") == "hit"] == ["li"] * 2
    assert "found at 15" in text and "not found" in text and "2 of these 4 lists hold one" in text
    old = [{key: value for key, value in sample.items() if key != "rank"} for sample in metrics()["samples"]]
    (folder / "metrics.json").write_text(json.dumps(metrics(samples=old)))
    assert "✓ hit at 1" in read(folder).text


def test_captions_and_perplexity_are_tables_when_there_are_any(tmp_path):
    warmup = {"similarity": 0.125, "captions": [{"title": "Heat", "caption": "xyzzy"}]}
    both = {"similarity": 0.5, "items": 9, "captions": [{"title": "Alien", "caption": "space horror"}]}
    more = {"alignment": {"token_warmup": warmup, "multi_task": both}}
    page = read(finished(tmp_path / "run", **more, perplexity=[{"after": "warmup", "perplexity": 17.25}]))
    assert "alignment" in page.sections
    assert "Alien space horror" in page.text and "xyzzy" not in page.text, "the captions of the last stage"
    assert "similarity 0.1250 0.5000" in page.text and "items 9" in page.text and "warmup 17.25" in page.text
    assert "alignment" not in read(finished(tmp_path / "plain")).sections


def test_only_committed_rows_of_the_same_events_and_masking_stand_beside_it(tmp_path, results):
    results.mkdir()
    facts = "model,mask_history,finished,data_fingerprint,ndcg@10,se_ndcg@10"
    rows = ["Near,1,M,True,2026-01-01,f,0.1111,0.01", "Near,1,M,False,2026-01-01,f,0.2222,0.01"]
    rows += ["Far,1,M,True,2026-01-01,other,0.3333,0.01", "Twin,1,M,True,2026-01-01,f,0.4444,0.01"]
    rows += ["Twin,2,M,True,2026-01-02,f,0.5555,0.01"]
    (results / "d.csv").write_text("\n".join([f"row,seed,{facts}", *rows, ""]))
    page = read(finished(tmp_path / "run", dataset="d"))
    masked, free = page.text.split("Items the user had already met can be")
    assert "0.1111" in masked and "0.2222" in free and "0.2222" not in masked and "0.1111" not in free
    assert "0.3333" not in page.text
    bars = page.charts["board-ndcg@10"]["data"]
    assert bars[0]["y"] == ["Model Film"], "the run itself has a colour of its own"
    assert sorted(bars[1]["y"]) == ["Near", "Pop", "Twin, 2 seeds"]
    assert 0.49995 in bars[1]["x"], "of several seeds the mean"


def test_the_command_makes_a_report_again_and_refuses_an_unfinished_run(tmp_path, capsys):
    assert main([str(finished(tmp_path / "run"))]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'run' / 'report.html'}\n"
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="not finished"):
        write_report(tmp_path / "empty")
    assert main([str(tmp_path / "empty")]) == 2
    assert capsys.readouterr().err.startswith("error: ")
    for words, code in (([], 2), (["--help"], 0)):
        with pytest.raises(SystemExit) as ended:
            main(words)
        assert ended.value.code == code


def test_ranks_are_read_by_their_header(tmp_path):
    path = tmp_path / "ranks.tsv"
    path.write_text("user_id\trank\trank_other_masking\nu\t1\t2\n")
    assert read_ranks(path) == {"u": (1, 2)}
    path.write_text('rank_other_masking\ttarget_count\tuser_id\trank\n2\t9\t"u\t1\n')
    assert read_ranks(path) == {'"u': (1, 2)}
