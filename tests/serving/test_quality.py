import json

import pytest

from recbole_think.corpus.histories import targets
from recbole_think.errors import InputError
from recbole_think.serving.ahead import AheadOptions
from recbole_think.serving.quality import main, quality
from recbole_think.serving.run import ServedRun


@pytest.fixture(scope="module")
def rows(thinking_run):
    served = ServedRun(thinking_run, "valid")
    return {row["lists"]: row for row in quality(served, AheadOptions(2), [2, 99], [0.0, 0.5], show_progress=False)}


def test_without_a_thought_the_list_is_the_one_that_is_evaluated_without_one(thinking_run, rows):
    """The validation item as fresh event makes the very history the test split asks from."""
    served = ServedRun(thinking_run, "valid")
    served.model.judged = False
    _, items = served.run.full_sort_topk(sorted(served.users), 10)
    served.model.judged = None
    wanted = dict(zip(*(part.tolist() for part in targets(served.run.splits["test"][0].dataset)), strict=True))
    hits = [wanted[served.users[user]] in row for user, row in zip(sorted(served.users), items.tolist(), strict=True)]
    assert rows["direct"]["metrics"]["recall@10"] == pytest.approx(sum(hits) / len(hits), abs=1e-4)


def test_full_lists_are_those_of_the_run(thinking_run, rows):
    kept = json.loads((thinking_run / "metrics.json").read_text())
    full = rows["full: thought at once, then answered"]["metrics"]
    assert full["ndcg@10"] == pytest.approx(kept["test"]["ndcg@10"], abs=1e-3)


def test_thoughts_that_lead_everywhere_change_nothing(rows):
    [everywhere] = [row for name, row in rows.items() if name.startswith("online: 99 prefixes") and "0 free" in name]
    assert everywhere["metrics"] == rows["direct"]["metrics"] and everywhere["gain_ndcg@10"]["p"] == 1.0
    assert "100% of users guided" in everywhere["lists"]


def test_every_row_has_its_difference_and_what_chance_would_do(rows):
    assert len(rows) == 3 + 2 * 2
    for name, row in rows.items():
        assert 0 <= row["metrics"]["ndcg@10"] <= 1 and row["standard_error"]["ndcg@10"] >= 0
        if name != "direct":
            low, high = row["gain_ndcg@10"]["interval"]
            difference = row["metrics"]["ndcg@10"] - rows["direct"]["metrics"]["ndcg@10"]
            assert low <= row["gain_ndcg@10"]["mean"] <= high
            assert row["gain_ndcg@10"]["mean"] == pytest.approx(difference, abs=1e-4)


def test_another_split_measures_something_else(thinking_run):
    with pytest.raises(InputError, match="where validation begins"):
        quality(ServedRun(thinking_run, "test"), AheadOptions(), [2], [0.0])


def test_the_command_prints_a_table_and_writes_it(thinking_run, tmp_path, capsys):
    words = ["--run", str(thinking_run), "--thoughts", "1", "--prefixes", "2", "--free", "0"]
    assert main([*words, "--out", str(tmp_path / "quality.json")]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2 + 4
    assert len(json.loads((tmp_path / "quality.json").read_text())["rows"]) == 4
