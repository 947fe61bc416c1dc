import csv
import json
import math

import pytest

from recbole_think.errors import InputError
from recbole_think.experiment import shared_settings
from recbole_think.leaderboard import rows
from recbole_think.leaderboard.__main__ import main
from recbole_think.leaderboard.ranks import read_ranks, read_users
from recbole_think.leaderboard.rows import COLUMNS, add, committed_rows, comparable_rows, table
from recbole_think.machine import instructions


@pytest.fixture(autouse=True)
def results(tmp_path, monkeypatch):
    """An empty folder of committed results."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(rows, "results_dir", lambda: tmp_path / "results")
    return tmp_path / "results"


RANKS = """user_id\trank\trank_other_masking\thistory_length\ttarget_count
u9\t1\t2\t7\t3
u1\t0\t4\t5\t1
"""


def finished(folder, model="SASRec", seed=1, masked=True, ndcg=0.5, dataset="toy", **more):
    folder.mkdir(parents=True)
    metrics = {
        "model": model, "dataset": dataset, "seed": seed, "mask_history": masked, "test": {"ndcg@10": ndcg},
        "standard_error": {"ndcg@10": 0.01234567}, "test_other_masking": {"ndcg@10": ndcg / 2},
        "standard_error_other_masking": {"ndcg@10": 0.02}, "finished": "2026-11-22 02:00:00+0000", "commit": "abc",
        "command": "python run_recbole_think.py --topk='[5, 10]'",
        "hardware": {"cpu": "A, B", "threads": 2, "gpus": []},
        "seconds": {"fit": 10.4, "evaluate_test": 1.26, "evaluate_test_other_masking": 2}, "data_fingerprint": "f",
        "tie_rule": "by time", "valid": {"ndcg@10": 0.75}, **more,
    }  # fmt: skip
    (folder / "metrics.json").write_text(json.dumps(metrics))
    (folder / "ranks.tsv").write_text(RANKS)
    return folder


def test_a_finished_run_is_kept_under_both_maskings_and_read_back(tmp_path, results):
    assert add(finished(tmp_path / "run")) == results / "toy.csv"
    [masked], [free] = committed_rows("toy", True), committed_rows("toy", False)
    assert masked["test"] == {"ndcg@10": 0.5} and free["test"] == {"ndcg@10": 0.25}
    assert masked["standard_error"] == {"ndcg@10": 0.012346} and free["standard_error"] == {"ndcg@10": 0.02}
    assert masked["model"] == "SASRec" and masked["finished"] == "2026-11-22" and masked["data_fingerprint"] == "f"
    assert masked["command"] == "python run_recbole_think.py --topk='[5, 10]'"
    assert masked["hardware"] == "A, B, 2 thread(s)" and masked["seconds_train"] == "10"
    assert masked["seconds_eval"] == "1.3" and free["seconds_eval"] == "2"


def test_a_row_made_on_a_gpu_says_which(tmp_path, results):
    add(finished(tmp_path / "run", hardware={"cpu": "A", "threads": 2, "gpus": ["G"]}))
    assert committed_rows("toy", True)[0]["hardware"] == "G, A, 2 thread(s)"


def test_a_processor_is_told_from_others_of_its_name_by_the_products_it_has(tmp_path, results):
    add(finished(tmp_path / "run", hardware={"cpu": "A", "threads": 2, "gpus": [], "instructions": "AVX512"}))
    assert committed_rows("toy", True)[0]["hardware"] == "A (AVX512), 2 thread(s)"


@pytest.mark.parametrize(
    ("flags", "said"),
    [("amx_bf16 avx512_bf16 avx512f avx2", "AMX bf16"), ("avx512_bf16 avx512f avx2", "AVX512 bf16"),
     ("avx512f avx2", "AVX512"), ("avx2 fma", "AVX2"), ("neon", ""), ("", "")],
)  # fmt: skip
def test_the_widest_products_of_a_processor_are_named(flags, said):
    assert instructions(set(flags.split())) == said


def test_training_includes_the_stages_a_run_was_given_or_had_finished_before_a_kill(tmp_path, results):
    stages = [{"seconds": 100.0, "skipped": True}, {"seconds": 9.0}]
    add(finished(tmp_path / "run", stages=stages))
    assert committed_rows("toy", True)[0]["seconds_train"] == "110"


def test_the_main_masking_of_a_run_decides_which_of_its_rows_is_which(tmp_path):
    add(finished(tmp_path / "run", masked=False))
    assert committed_rows("toy", False)[0]["test"] == {"ndcg@10": 0.5}
    assert committed_rows("toy", True)[0]["test"] == {"ndcg@10": 0.25}


def test_the_same_model_and_seed_replace_their_rows_and_others_stand_beside(tmp_path, results):
    for number, (model, seed, ndcg) in enumerate(
        [("SASRec", 1, 0.5), ("SASRec", 2, 0.6), ("BPR", 1, 0.1), ("SASRec", 1, 0.7)]
    ):
        add(finished(tmp_path / f"run{number}", model, seed, ndcg=ndcg))
    found = {(row["model"], row["seed"]): row["test"]["ndcg@10"] for row in committed_rows("toy", True)}
    assert found == {("SASRec", "1"): 0.7, ("SASRec", "2"): 0.6, ("BPR", "1"): 0.1}
    with (results / "toy.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 6 and rows == sorted(rows, key=lambda row: (row["model"], row["seed"], row["mask_history"]))


def test_runs_of_other_metrics_share_a_file(tmp_path):
    add(finished(tmp_path / "one"))
    add(finished(tmp_path / "two", "BPR", test={"recall@3": 0.9}, standard_error={"recall@3": 0.1}))
    found = {row["model"]: row["test"] for row in committed_rows("toy", True)}
    assert found == {"SASRec": {"ndcg@10": 0.5}, "BPR": {"recall@3": 0.9}}


def test_no_committed_results_are_no_rows():
    assert committed_rows("toy", True) == []


def test_an_unfinished_run_is_refused(tmp_path, capsys):
    (tmp_path / "run").mkdir()
    with pytest.raises(InputError, match=r"no metrics\.json: the run is not finished"):
        add(tmp_path / "run")
    assert main(["add", str(tmp_path / "run")]) == 2
    assert capsys.readouterr().err.startswith("error: ")


def test_the_columns_begin_as_the_documentation_says(tmp_path, results):
    add(finished(tmp_path / "run"))
    with (results / "toy.csv").open(newline="") as file:
        assert next(csv.reader(file))[: len(COLUMNS)] == list(COLUMNS)


def test_ranks_are_kept_in_the_order_of_users_under_either_masking_and_without_their_names(tmp_path, results):
    add(finished(tmp_path / "run"), row="a row")
    assert read_ranks(results / "toy", "a row", 1, masked=True).tolist() == [0, 1], "u1, then u9"
    assert read_ranks(results / "toy", "a row", 1, masked=False).tolist() == [4, 2]
    assert read_users(results / "toy").history_length.tolist() == [5, 7]
    assert not any(b"u9" in path.read_bytes() for path in (results / "toy").iterdir())
    add(finished(tmp_path / "free", masked=False, seed=2), row="a row")
    assert read_ranks(results / "toy", "a row", 2, masked=False).tolist() == [0, 1]


@pytest.mark.parametrize("other", [{"data_fingerprint": "g"}, {"tie_rule": "at random"}])
def test_rows_of_another_split_or_tie_rule_are_refused_and_nothing_is_written(tmp_path, results, other):
    add(finished(tmp_path / "one"))
    before = (results / "toy.csv").read_text()
    with pytest.raises(InputError, match=f"{next(iter(other))}.*never in one table"):
        add(finished(tmp_path / "two", "BPR", **other))
    assert (results / "toy.csv").read_text() == before and len(list((results / "toy").iterdir())) == 2


def test_a_row_that_is_made_anew_may_change_the_split_of_its_table(tmp_path):
    add(finished(tmp_path / "one"))
    add(finished(tmp_path / "two", data_fingerprint="g"))
    assert [row["data_fingerprint"] for row in committed_rows("toy", True)] == ["g"]


def test_a_run_is_shown_beside_rows_of_other_models_on_its_own_split(tmp_path):
    add(finished(tmp_path / "one", "BPR"))
    add(finished(tmp_path / "two", "SASRec"))
    metrics = {"dataset": "toy", "model": "SASRec", "data_fingerprint": "f"}
    assert [row["row"] for row in comparable_rows(metrics, True)] == ["BPR"]
    assert comparable_rows({**metrics, "data_fingerprint": "g"}, True) == []


def test_the_command_adds_and_says_where(tmp_path, results, capsys):
    assert main(["add", str(finished(tmp_path / "run"))]) == 0
    assert capsys.readouterr().out == f"{results / 'toy.csv'}\n"
    for wrong in ([], ["drop", "x"]):
        with pytest.raises(SystemExit) as ended:
            main(wrong)
        assert ended.value.code == 2


def row(label, **test):
    return {
        "label": label, "test": {name.replace("_at_", "@"): value for name, value in test.items()},
        "standard_error": {name.replace("_at_", "@"): value / 10 for name, value in test.items()},
    }  # fmt: skip


def test_a_table_sets_means_over_their_standard_errors():
    lines = table(
        [row("A model", ndcg_at_10=0.12345, mrr_at_10=0.5), row("Pop", ndcg_at_10=0.01, mrr_at_10=0.02)]
    ).splitlines()
    assert lines[0].split() == ["ndcg@10", "mrr@10"]
    assert lines[1].split() == ["A", "model", "0.1235", "0.5000"] or lines[1].split() == [
        "A",
        "model",
        "0.1234",
        "0.5000",
    ]
    assert lines[2].split() == ["±", "0.0123", "±", "0.0500"]
    assert lines[3].split() == ["Pop", "0.0100", "0.0200"]
    assert len({len(line) for line in lines}) == 1, "columns stand under one another"


def test_a_row_without_a_metric_says_so_instead_of_a_number():
    lines = table([row("A", ndcg_at_10=0.1, mrr_at_10=0.2), row("B", ndcg_at_10=0.3)]).splitlines()
    assert lines[3].split()[1] == "0.3000" and math.isnan(float(lines[3].split()[2]))


def test_a_second_model_is_given_the_data_and_evaluation_of_the_first_and_none_of_its_own_settings(tmp_path):
    from recbole_think.config import ThinkConfig

    given = {
        "data_path": str(tmp_path), "seed": 3, "mask_history": True, "topk": [5], "valid_metric": "NDCG@5", "epochs": 2,
        "hidden_size": 8, "MAX_ITEM_LIST_LENGTH": 7, "user_inter_num_interval": "[3,inf)", "run_folder": "x",
        "learning_rate": 0.1,
    }  # fmt: skip
    shared = shared_settings(ThinkConfig("SASRec", "toy", config_dict=given))
    assert shared == {
        key: given[key]
        for key in ("data_path", "seed", "mask_history", "topk", "valid_metric", "user_inter_num_interval")
    }


def test_every_committed_result_can_be_read():
    from recbole_think.paths import results_dir

    for path in results_dir().glob("*.csv"):
        with path.open(newline="", encoding="utf-8") as file:
            for line in csv.DictReader(file):
                assert line["mask_history"] in ("True", "False") and line["data_fingerprint"] and line["command"]
                assert all(0 <= float(value) <= 1 for name, value in line.items() if "@" in name and value)
