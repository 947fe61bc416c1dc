"""A search finds what is best on validation, goes on where it was cut off, and runs the same values once."""

import csv
import json
import math

import pytest
import yaml

from recbole_think.search import study as studies
from recbole_think.search.__main__ import main
from recbole_think.search.space import read_space
from recbole_think.search.study import Search, TrialError, finished, study_of

SPACE = {"learning_rate": {"log": [1e-4, 1e-1]}, "n_layers": {"int": [1, 3]}}


def search_of(folder, **more) -> Search:
    space = read_space(more.pop("space", SPACE), "here")
    return Search("SASRecAll", "ml-100k", space, folder, **more)


def bowl(search, trial) -> float:
    """Best at a learning rate of .01 and two layers."""
    values = {name: of.drawn(name, trial) for name, of in search.space.items()}
    return -((math.log10(values["learning_rate"]) + 2) ** 2) - (values["n_layers"] - 2) ** 2


@pytest.fixture
def asked(tmp_path, monkeypatch):
    """Run the command line on a search whose trials are points of a bowl."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(studies, "scored", bowl)

    def run(*words, **told):
        (tmp_path / "search.yaml").write_text(
            yaml.safe_dump({"model": "SASRecAll", "dataset": "ml-100k", "space": SPACE, **told})
        )
        return main(["search.yaml", "--folder=found", *words])

    return run


def rows(tmp_path):
    with (tmp_path / "found" / "trials.csv").open() as file:
        return list(csv.DictReader(file))


def test_it_closes_in_on_the_best(asked, tmp_path, capsys):
    assert asked("--trials=30", options={"epochs": 3}) == 0
    best = yaml.safe_load((tmp_path / "found" / "best.yaml").read_text())
    assert best["n_layers"] == 2 and 0.004 < best["learning_rate"] < 0.025 and best["epochs"] == 3
    assert "best of 30 trials, on validation" in capsys.readouterr().out
    page = (tmp_path / "found" / "search.html").read_text()
    assert "learning_rate" in page and "https://cdn" not in page[:2000]


def test_more_trials_are_added_to_those_there_are(asked, tmp_path):
    assert asked("--trials=4") == 0
    before = [row["learning_rate"] for row in rows(tmp_path)]
    assert asked("--trials=6") == 0
    after = [row["learning_rate"] for row in rows(tmp_path)]
    assert after[:4] == before and len(set(after)) == 6, "and none is drawn again"


def test_a_folder_of_another_search_is_refused(asked, capsys):
    assert asked("--trials=1") == 0
    assert asked("--trials=1", options={"epochs": 9}) == 2
    assert "epochs" in capsys.readouterr().err


def test_a_trial_that_was_killed_is_the_next_one_again(tmp_path):
    search = search_of(tmp_path / "found")
    killed = study_of(search).ask()
    values = {name: of.drawn(name, killed) for name, of in search.space.items()}
    study = study_of(search)
    study.optimize(lambda trial: bowl(search, trial), n_trials=2)
    assert finished(study)[0].params == values != finished(study)[1].params


def test_a_trial_that_was_interrupted_is_the_next_one_again_and_once(tmp_path):
    search = search_of(tmp_path / "found")

    def interrupted(trial):
        bowl(search, trial)
        trial.set_user_attr(studies.CUT, True)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        study_of(search).optimize(interrupted, n_trials=1)
    study_of(search)
    study = study_of(search)
    study.optimize(lambda trial: bowl(search, trial), n_trials=2)
    of_first = [trial for trial in study.trials if trial.params == study.trials[0].params]
    assert len(of_first) == 2, "the one that was interrupted, and the one that made up for it"


def test_a_trial_that_fails_is_kept_with_its_reason_and_the_search_goes_on(asked, monkeypatch, tmp_path, capsys):
    def picky(search, trial):
        value = bowl(search, trial)
        if trial.number == 1:
            trial.set_user_attr("reason", "error: the loss is nan")
            raise TrialError("the loss is nan")
        return value

    monkeypatch.setattr(studies, "scored", picky)
    assert asked("--trials=3") == 0
    assert [row["state"] for row in rows(tmp_path)] == ["complete", "fail", "complete", "complete"]
    assert rows(tmp_path)[1]["reason"] == "error: the loss is nan"
    assert "trial 1 failed: error: the loss is nan" in capsys.readouterr().err


def test_where_every_trial_fails_the_search_ends(asked, monkeypatch, capsys):
    def broken(search, trial):
        trial.set_user_attr("reason", "error: no data")
        raise TrialError("no data")

    monkeypatch.setattr(studies, "scored", broken)
    assert asked("--trials=10") == 2
    assert "the first 3 trials failed, the last one so: error: no data" in capsys.readouterr().err


def test_a_grid_has_every_combination_once(asked, monkeypatch, tmp_path):
    grid = {"n_layers": [1, 2], "hidden_size": [16, 32, 64]}
    monkeypatch.setattr(
        studies, "scored", lambda search, trial: sum(of.drawn(n, trial) for n, of in search.space.items())
    )
    assert asked("--trials=50", "--sampler=grid", space=grid) == 0
    found = {(row["n_layers"], row["hidden_size"]) for row in rows(tmp_path)}
    assert len(rows(tmp_path)) == len(found) == 6


@pytest.mark.parametrize(
    ("told", "words", "said"),
    [
        ({"space": {"learning_rat": [1]}}, [], "unknown option 'learning_rat'"),
        ({"spaces": 1}, [], "unknown key 'spaces'"),
        ({"model": ""}, [], "model is missing"),
        ({"sampler": "grid"}, [], "learning_rate has a range"),
        ({"options": {"n_layers": 2}}, [], "n_layers is both searched and set"),
        ({"trials": 0}, ["--trials=-1"], "at least 1"),
        ({}, ["epochs"], "write options as --key=value"),
        ({}, ["--topk=[5"], "--topk cannot be read"),
        ({"options": [1]}, [], "options must be key: value lines"),
        ({"seed": "abc"}, [], "seed must be a whole number"),
    ],
)
def test_what_cannot_be_searched_is_said_before_a_trial_runs(asked, told, words, said, tmp_path, capsys):
    assert asked(*words, **told) == 2
    assert said in capsys.readouterr().err
    assert not list((tmp_path / "found").glob("trial-*"))


def test_trials_are_runs_judged_by_validation(toy_path, tmp_path, monkeypatch):
    """Real ones, of a data set where one of two values is right."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "hyper.test").write_text("decay choice [0.1,1.0]\n")
    words = ["hyper.test", "--model=CoOccurrence", "--dataset=toy", f"--data_path={toy_path}", "--folder=found",
             "--sampler=grid", "--topk=[5,10]", f"--cache_dir={tmp_path / 'cache'}"]  # fmt: skip
    assert main(words) == 0
    made = rows(tmp_path)
    assert [row["state"] for row in made] == ["complete"] * 2
    for row in made:
        metrics = json.loads((tmp_path / "found" / row["folder"] / "metrics.json").read_text())
        assert float(row["valid"]) == metrics["valid"]["ndcg@10"]
    assert main(words) == 0, "and nothing is left to do"
    assert len(rows(tmp_path)) == 2


def test_what_is_best_so_far_moves_no_trial_to_another_folder(asked, tmp_path, monkeypatch):
    folders = []

    def noted(search, trial):
        value = bowl(search, trial)
        folders.append(search.run_folder({"learning_rate": 0.5, "n_layers": 1}))
        return value

    monkeypatch.setattr(studies, "scored", noted)
    space = {"learning_rate": SPACE["learning_rate"], "n_layers": SPACE["n_layers"]}
    assert asked("--trials=3", space=space, options={"eval_args": {"order": "TO"}}) == 0
    assert len(set(folders)) == 1


def test_a_grid_that_was_cut_goes_on_to_its_end(tmp_path):
    grid = {"n_layers": [1, 2], "learning_rate": [1e-5, 0.1]}
    search = search_of(tmp_path / "found", space=grid, sampler="grid", trials=9)
    cut = study_of(search).ask()
    {name: of.drawn(name, cut) for name, of in search.space.items()}
    study = study_of(search)
    study.optimize(lambda trial: sum(of.drawn(name, trial) for name, of in search.space.items()), n_trials=4)
    assert {tuple(trial.params.values()) for trial in finished(study)} == {
        (layers, rate) for layers in ("1", "2") for rate in ("1e-05", "0.1")
    }
    assert studies.waiting(study) == 0 and search.wanted == 4


def test_the_best_of_small_numbers_is_a_number(asked, monkeypatch, tmp_path):
    monkeypatch.setattr(
        studies, "scored", lambda search, trial: -search.space["weight_decay"].drawn("weight_decay", trial)
    )
    assert asked("--trials=2", "--sampler=grid", space={"weight_decay": ["1e-5", "1e-3"]}) == 0
    assert yaml.safe_load((tmp_path / "found" / "best.yaml").read_text())["weight_decay"] == 0.00001
