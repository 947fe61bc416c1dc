"""What every model of the catalog owes: one split, one mask, one evaluator, one record, whatever its kind."""

import contextlib
import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from recbole.trainer import Trainer

from recbole_think import evaluation, experiment, record
from recbole_think.catalog import CATALOG
from recbole_think.errors import InputError
from recbole_think.evaluation import evaluate, set_mask
from recbole_think.experiment import run
from tests.contract import survey
from tests.toy import N_ITEMS, POPULAR, SMALL, TOPK, Opened, run_opened, settings, title, walks, write_toy

KEYS = {
    "model", "dataset", "seed", "mask_history", "valid", "test", "standard_error", "test_other_masking",
    "illegal_rate", "seconds", "peak_memory_mib", "parameters", "data_fingerprint", "commit", "versions", "hardware",
}  # fmt: skip
METRICS = {f"{name}@{k}" for name in ("recall", "ndcg", "mrr") for k in TOPK}
TIED = ("Pop", "ItemKNN")  # counts and sums of few neighbours: many items score alike, and may swap at will
CLOSE = 1e-4  # sums over a batch and over one row may differ by rounding

GENERATIVE = ("OneRecThink", "TIGER")


@pytest.fixture(scope="module", params=list(SMALL))
def opened(request, toy_path, tmp_path_factory) -> Opened:
    """One masked run of each model; the same checkpoint without the mask is part of its record."""
    folder = tmp_path_factory.mktemp(request.param) / "run"
    return run_opened(request.param, settings(request.param, toy_path, folder, mask_history=True))


def lists_of(opened: Opened, mask, monkeypatch) -> dict[str, list[str]]:
    """Raw item ids recommended to every test user, through the evaluator that makes the metrics."""
    monkeypatch.setattr(evaluation, "SAMPLES", 10**6)
    scores = evaluate(opened.trainer, opened.data.test, mask)
    users, items = names(opened)
    assert all(0 not in ranked for ranked in scores.lists), "padding was recommended"
    return {users[user]: [items[i] for i in ranked] for user, ranked in zip(scores.users, scores.lists, strict=True)}


def names(opened: Opened) -> tuple[np.ndarray, np.ndarray]:
    """Raw user ids and raw item ids by RecBole's own ids."""
    dataset = opened.data.test.dataset
    return dataset.field2id_token[dataset.uid_field], dataset.field2id_token[dataset.iid_field]


def ranks_of(opened: Opened) -> dict[str, tuple[float, float]]:
    """Masked and unmasked rank of every user's target; infinite when it is not in the list."""
    kept = record.read_ranks(Path(opened.result["run_folder"]) / "ranks.tsv")
    return {user: tuple(rank or math.inf for rank in both) for user, both in kept.items()}


def expected(ranks: list[float]) -> dict[str, float]:
    """The metrics of one target per user, from their definitions."""
    means = {}
    for k in TOPK:
        within = [rank if rank <= k else math.inf for rank in ranks]
        means[f"recall@{k}"] = np.mean([rank < math.inf for rank in within])
        means[f"mrr@{k}"] = np.mean([1 / rank for rank in within])
        means[f"ndcg@{k}"] = np.mean([1 / math.log2(rank + 1) for rank in within])
    return means


def is_ranking_of(items: torch.Tensor, scores: torch.Tensor) -> bool:
    """Whether ``items`` could be the top of ``scores``: equal scores may come in any order."""
    inside = scores[items]
    outside = scores.clone()
    outside[items] = -torch.inf
    return bool((inside[:-1] >= inside[1:] - CLOSE).all() and outside.max() <= inside[-1] + CLOSE)


def test_the_contract_covers_the_whole_catalog_but_for_chance():
    assert set(SMALL) | {"Random"} == set(CATALOG)


def test_the_page_of_models_has_a_row_for_each_of_recboles_and_marks_the_tested_ones():
    rows = survey.read_rows()
    assert list(rows) == survey.NAMES
    assert {name for name, row in rows.items() if "(tested)" in row} == set(SMALL) - survey.OURS


def test_chance_is_masked_and_split_like_any_model(toy_path, tmp_path, monkeypatch):
    # Random draws its scores anew whenever it is asked, so it has no one list the rest of the contract could be about
    opened = run_opened("Random", settings("Random", toy_path, tmp_path / "run", mask_history=True))
    assert opened.metrics["data_fingerprint"] == opened.result["popularity"]["data_fingerprint"]
    world = walks()
    for user, ranked in lists_of(opened, opened.data.until_test, monkeypatch).items():
        assert len(ranked) == max(TOPK)
        assert set(ranked).isdisjoint(world[user][:-1])


def test_the_record_says_what_ran_on_what_with_which_outcome(opened):
    metrics = opened.metrics
    assert KEYS <= set(metrics)
    assert METRICS <= set(metrics["test"]) & set(metrics["valid"]) & set(metrics["test_other_masking"])
    assert METRICS <= set(metrics["standard_error"])
    assert all(0 <= value <= 1 for part in ("valid", "test") for value in metrics[part].values())
    assert (metrics["model"], metrics["dataset"], metrics["mask_history"]) == (opened.config["model"], "toy", True)
    assert metrics["users"] == len(walks())
    assert metrics["parameters"] == sum(p.numel() for p in opened.trainer.model.parameters())


def test_only_a_generative_model_can_answer_with_no_item_and_ours_never_does(opened):
    assert opened.metrics["illegal_rate"] == (0 if opened.metrics["model"] in GENERATIVE else None)


def test_every_model_trains_on_all_but_the_last_two_events_of_every_user(opened):
    users, items = names(opened)
    data, world = opened.data, walks()
    asked = {}
    for loader in (data.valid, data.test):
        for user, target in zip(*evaluation_targets(loader), strict=True):
            asked.setdefault(users[user], []).append(items[target])
    for user, raw in enumerate(users[1:], start=1):
        assert list(items[data.histories.of(user)]) == world[raw][:-2]
        assert list(items[data.until_test.of(user)]) == world[raw][:-1]
        assert asked[raw] == world[raw][-2:]


def evaluation_targets(loader) -> tuple[list[int], list[int]]:
    """The (users, items) RecBole's own loader counts as hits, batch by batch."""
    users, items = [], []
    for interaction, _, rows, positives in loader:
        users += interaction["user_id"][rows].tolist()
        items += positives.tolist()
    return users, items


def test_every_model_is_compared_on_the_split_of_the_popularity_row(opened):
    popularity = opened.result["popularity"] or opened.metrics
    assert opened.metrics["data_fingerprint"] == popularity["data_fingerprint"]
    assert popularity["model"] == "Pop" and popularity["mask_history"] is True


def test_the_whole_catalogue_is_scored_and_padding_never_ranked(opened):
    set_mask(opened.trainer, None)
    opened.trainer.model.eval()
    n_items = opened.data.test.dataset.item_num
    for batch in opened.data.test:
        interaction, scores, *_ = opened.trainer._full_sort_batch_eval(batch)
        assert scores.shape == (len(interaction), n_items) == (len(interaction), N_ITEMS + 1)
        assert not scores.isnan().any()
        assert scores[:, 0].isneginf().all()
        assert (scores.isfinite().sum(1) >= max(TOPK)).all()


def test_with_the_mask_nobody_is_recommended_what_they_met_before(opened, monkeypatch):
    world = walks()
    masked = lists_of(opened, opened.data.until_test, monkeypatch)
    assert set(masked) == set(world)
    assert all(set(ranked).isdisjoint(world[user][:-1]) for user, ranked in masked.items())
    assert all(len(set(ranked)) == max(TOPK) for ranked in masked.values())


def test_without_the_mask_people_are_recommended_what_they_met_before(opened, monkeypatch):
    world = walks()
    free = lists_of(opened, None, monkeypatch)
    assert any(set(ranked) & set(world[user][:-1]) for user, ranked in free.items())


def test_the_validation_mask_knows_nothing_of_the_validation_event(opened, monkeypatch):
    monkeypatch.setattr(evaluation, "SAMPLES", 10**6)
    users, items = names(opened)
    scores = evaluate(opened.trainer, opened.data.valid, opened.data.histories)
    assert scores.metrics == pytest.approx(opened.metrics["valid"])
    world = walks()
    for user, ranked in zip(scores.users, scores.lists, strict=True):
        assert set(items[ranked]).isdisjoint(world[users[user]][:-2])
    fresh = [world[users[u]][-2] not in world[users[u]][:-2] for u in scores.users]
    assert scores.ranks[fresh].any(), "a validation event that is new to its user can be hit"
    assert not scores.ranks[~np.array(fresh)].any(), "one that is not new cannot"


def test_the_samples_shown_are_real_and_masked(opened):
    world = walks()
    assert opened.metrics["samples"]
    for sample in opened.metrics["samples"]:
        visited = [title(raw) for raw in world[sample["user"]]]
        assert sample["history"] == visited[:-1][-5:]
        assert sample["target"] == visited[-1]
        assert set(sample["recommended"]).isdisjoint(visited[:-1])


def test_a_user_gets_the_same_list_alone_and_in_a_batch(opened):
    set_mask(opened.trainer, opened.data.until_test)
    model = opened.trainer.model.eval()
    with torch.no_grad():
        for interaction, *_ in opened.data.test:
            together = model.full_sort_predict(interaction).view(len(interaction), -1)[:, 1:]
            for row in range(0, len(interaction), 4):
                alone = model.full_sort_predict(interaction[row : row + 1]).view(-1)[1:]
                torch.testing.assert_close(alone, together[row], atol=CLOSE, rtol=CLOSE)
                assert is_ranking_of(alone.topk(max(TOPK)).indices, together[row])


def test_the_metrics_are_the_means_of_the_ranks_that_were_kept(opened):
    ranks = ranks_of(opened)
    masked, free = zip(*ranks.values(), strict=True)
    assert set(ranks) == set(walks())
    assert opened.metrics["test"] == pytest.approx(expected(masked), abs=1e-6)
    assert opened.metrics["test_other_masking"] == pytest.approx(expected(free), abs=1e-6)


def test_the_mask_loses_targets_met_before_and_lifts_all_others(opened):
    world = walks()
    lifted = 0
    for user, (masked, free) in ranks_of(opened).items():
        if world[user][-1] in world[user][:-1]:
            assert masked == math.inf
        elif opened.metrics["model"] not in TIED:
            assert masked <= free
            lifted += masked < free
    assert lifted or opened.metrics["model"] in TIED
    assert opened.metrics["test"] != opened.metrics["test_other_masking"]
    repeated = np.mean([visited[-1] in visited[:-1] for visited in world.values()])
    assert opened.metrics["repeated_target_share"] == pytest.approx(repeated)


def test_the_same_command_again_reads_the_finished_run_back(opened, monkeypatch):
    def forbidden(*_, **__):
        raise AssertionError("a finished run was run again")

    monkeypatch.setattr(record, "write", forbidden)
    again = run(opened.metrics["model"], "toy", config_dict=dict(opened.config.variable_config_dict))
    assert again["metrics"] == opened.metrics
    assert again["best_valid_score"] == opened.result["best_valid_score"]


def test_popularity_has_the_known_recall_under_either_masking(tmp_path):
    # training events: A 6, B 4, C 3, D 2, E 1, F none; so popularity ranks A B C D E F
    world = {
        "u1": ["A", "A", "B", "C", "A"],  # target A: first; met before
        "u2": ["A", "B", "C", "D", "B"],  # target B: second; met before
        "u3": ["A", "B", "D", "C", "E"],  # target E: fifth; first once A, B, C and D are masked
        "u4": ["A", "C", "C", "A", "B"],  # target B: second; first once A and C are masked
        "u5": ["E", "A", "B", "D", "F", "A"],  # target A: first; met before, and only C is left to be recommended
    }
    write_toy(tmp_path, world)
    options = settings("Pop", tmp_path, tmp_path / "free", topk=[1, 2, 3], valid_metric="Recall@3")
    metrics = run("Pop", "toy", config_dict=options)["metrics"]
    free, masked = metrics["test"], metrics["test_other_masking"]
    for found, ranks in ((free, [1, 2, math.inf, 2, 1]), (masked, [math.inf, math.inf, 1, 1, math.inf])):
        for k in (1, 2, 3):
            assert found[f"recall@{k}"] == pytest.approx(sum(rank <= k for rank in ranks) / 5)
        assert found["mrr@3"] == pytest.approx(sum(1 / rank for rank in ranks) / 5, abs=1e-6)
        assert found["ndcg@3"] == pytest.approx(sum(1 / math.log2(rank + 1) for rank in ranks) / 5, abs=1e-6)
    options |= {"mask_history": True, "run_folder": str(tmp_path / "masked")}
    metrics = run("Pop", "toy", config_dict=options)["metrics"]
    assert (metrics["test"], metrics["test_other_masking"]) == (masked, free), "asked for, or as the other masking"
    # validation targets C, D, C, A, F: what users met in training is masked, so A of u4 is lost and F comes second
    assert [metrics["valid"][f"recall@{k}"] for k in (1, 2, 3)] == pytest.approx([3 / 5, 4 / 5, 4 / 5])


def test_popularity_ranks_by_how_often_training_met_an_item(toy_path, tmp_path, monkeypatch):
    met = Counter(raw for visited in walks().values() for raw in visited[:-2])
    assert {raw for raw, _ in met.most_common(3)} == {f"p{number}" for number in POPULAR}
    opened = run_opened("Pop", settings("Pop", toy_path, tmp_path / "run"))
    for ranked in lists_of(opened, None, monkeypatch).values():
        assert [met[raw] for raw in ranked] == sorted(met.values(), reverse=True)[: max(TOPK)]


def test_neighbours_complete_a_clique(tmp_path):
    # who met three of four places that are always met together is shown the fourth, and nothing else before it
    cliques = (["A", "B", "C", "D"], ["E", "F", "G", "H"])
    world = {
        f"u{number}{turn}": clique[turn:] + clique[:turn] for number, clique in enumerate(cliques) for turn in range(4)
    }
    write_toy(tmp_path, world)
    options = settings("ItemKNN", tmp_path, tmp_path / "run", topk=[1, 5], valid_metric="Recall@5", mask_history=True)
    metrics = run("ItemKNN", "toy", config_dict=options)["metrics"]
    assert metrics["test"]["recall@1"] == 1
    assert metrics["test_other_masking"]["recall@1"] < 1, "without the mask they are shown where they have been"


def test_a_next_item_model_learns_a_ring_that_popularity_cannot(tmp_path):
    ring = [f"p{number}" for number in range(8)]
    write_toy(tmp_path, {f"u{n}": [ring[(n + step) % 8] for step in range(7)] for n in range(16)})
    more = {"epochs": 15, "eval_step": 15, "learning_rate": 0.05, "topk": [1, 5], "valid_metric": "Recall@1"}
    found = run("GRU4Rec", "toy", config_dict=settings("GRU4Rec", tmp_path, tmp_path / "run", **more))
    assert found["metrics"]["test"]["recall@1"] == 1
    assert found["popularity"]["test"]["recall@1"] <= 1 / 4


def test_the_weights_of_the_best_epoch_are_scored_and_not_those_of_the_last(toy_path, tmp_path, monkeypatch):
    one = run_opened("BPR", settings("BPR", toy_path, tmp_path / "one", epochs=1))
    pretended = [0.1, 0.2, 0.9]
    result = {name: 0.0 for name in METRICS}
    monkeypatch.setattr(Trainer, "_valid_epoch", lambda *_, **__: (pretended.pop() if pretended else 0.5, result))
    three = run_opened("BPR", settings("BPR", toy_path, tmp_path / "three", epochs=3))
    assert not pretended, "three epochs were trained"
    for name, weights in one.trainer.model.state_dict().items():
        assert torch.equal(weights, three.trainer.model.state_dict()[name]), name


@pytest.mark.parametrize("model", ["BPR", "SASRec", "SASRecAll", "HSTU", "ReaRec"])
def test_the_same_seed_gives_the_same_metrics_and_another_seed_others(model, toy_path, tmp_path):
    first, again, other = (
        run(model, "toy", config_dict=settings(model, toy_path, tmp_path / name, seed=seed))["metrics"]
        for name, seed in (("first", 1), ("again", 1), ("other", 2))
    )
    assert first["test"] == again["test"] and first["valid"] == again["valid"]
    assert first["test"] != other["test"]
    assert first["data_fingerprint"] == other["data_fingerprint"], "the seed may not change the split"


@pytest.mark.parametrize("model", ["BPR", "SASRec", "SASRecAll", "HSTU", "ReaRec"])
def test_a_history_longer_than_the_model_reads_is_masked_whole(model, toy_path, tmp_path, monkeypatch):
    more = {"mask_history": True} | ({"MAX_ITEM_LIST_LENGTH": 3} if model != "BPR" else {})
    opened = run_opened(model, settings(model, toy_path, tmp_path / "run", **more))
    world = walks()
    for user, ranked in lists_of(opened, opened.data.until_test, monkeypatch).items():
        assert set(ranked).isdisjoint(world[user][:-1])


def test_users_with_few_events_are_split_alike_for_both_kinds_of_model(tmp_path):
    # RecBole's sequential data set drops a user's first event before leaving one out, its general one does not
    write_toy(tmp_path, {**walks(), "three": ["p1", "p2", "p3"], "two": ["p4", "p5"]})
    found = run("GRU4Rec", "toy", config_dict=settings("GRU4Rec", tmp_path, tmp_path / "run"))
    assert found["metrics"]["data_fingerprint"] == found["popularity"]["data_fingerprint"]


def test_a_sample_is_shorter_rather_than_padded_with_masked_items(tmp_path):
    world = {"u1": ["A", "B", "C", "D", "E"], "u2": ["B", "C", "D", "A", "E"], "u3": ["C", "D", "E", "F", "A"]}
    write_toy(tmp_path, world)
    options = settings("Pop", tmp_path, tmp_path / "run", topk=[1, 5], valid_metric="Recall@5", mask_history=True)
    for sample in run("Pop", "toy", config_dict=options)["metrics"]["samples"]:
        met = world[sample["user"]][:-1]
        assert sorted(sample["recommended"]) == [title(raw) for raw in "ABCDEF" if raw not in met]


def test_a_relative_data_path_is_read_from_where_the_command_was_given(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_toy(tmp_path / "data")
    options = settings("BPR", tmp_path, tmp_path / "run") | {"data_path": "data", "run_folder": "run"}
    found = run("BPR", "toy", config_dict=options)
    assert found["popularity"]["data_fingerprint"] == found["metrics"]["data_fingerprint"]


def test_a_finished_run_is_kept_when_its_popularity_row_fails(toy_path, tmp_path, monkeypatch):
    monkeypatch.setattr(experiment, "shared_settings", lambda _: {"data_path": str(tmp_path / "nowhere")})
    with contextlib.suppress(InputError):
        run("BPR", "toy", config_dict=settings("BPR", toy_path, tmp_path / "run"))
    assert (tmp_path / "run" / "metrics.json").is_file()


def test_a_model_that_ranks_items_nobody_ever_met_has_a_fingerprint_of_its_own(tmp_path):
    """RecBole adds the items of a loaded .item file to the catalogue of that model alone."""
    write_toy(tmp_path)
    with (tmp_path / "toy" / "toy.item").open("a", encoding="utf-8") as file:
        file.write("unvisited\tPlace unvisited\tpark\n")
    data = {model: run_opened(model, settings(model, tmp_path, tmp_path / model)).data for model in ("HGN", "S3Rec")}
    sizes = {model: found.test.dataset.item_num for model, found in data.items()}
    assert sizes["S3Rec"] == sizes["HGN"] + 1
    assert data["S3Rec"].fingerprint != data["HGN"].fingerprint, "their rows may not share a table"


def test_the_package_gives_run_as_a_function():
    from recbole_think import run as public

    assert callable(public)
