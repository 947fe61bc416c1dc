import json
import shutil
from pathlib import Path

import pytest
import torch

from recbole_think import load, run
from recbole_think.corpus.histories import targets
from recbole_think.errors import InputError
from recbole_think.record import read_ranks
from tests.toy import N_ITEMS, TOPK, settings, title, walks, write_toy

MODELS = [
    "OneRecThink",
    "TIGER",
    "Pop",
    "ItemKNN",
    "BPR",
    "SASRec",
    "HGN",
    "S3Rec",
    "NeuMF",
]  # NeuMF scores pair by pair
GENERATIVE = ("OneRecThink", "TIGER")


@pytest.fixture(scope="module", params=MODELS)
def loaded(request, toy_path, tmp_path_factory):
    """A finished, masked run, loaded from another working directory, and its folder."""
    folder, elsewhere = tmp_path_factory.mktemp(request.param) / "run", tmp_path_factory.mktemp("elsewhere")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(toy_path)
        options = settings(request.param, Path(), folder, mask_history=True, seed=7)
        run(request.param, "toy", config_dict=options)
        patch.chdir(elsewhere)
        before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
        found = load(folder)
        found.recommend("u0")
        assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before, "nothing is written"
        assert not list(elsewhere.iterdir())
    return found, folder


def ranks(found, users, mask_history) -> list[int]:
    """Rank of every user's test target in the lists of ``full_sort_topk``, 0 when it is not there."""
    scores, items = found.full_sort_topk(users, max(TOPK), mask_history)
    assert scores.shape == items.shape == (len(users), max(TOPK))
    held_out = found.splits["test"][0].dataset
    target = dict(zip(*(part.tolist() for part in targets(held_out)), strict=True))
    ids = [found.dataset.token2id(found.dataset.uid_field, user) for user in users]
    places = []
    for user, row, of_row in zip(ids, items.tolist(), scores.tolist(), strict=True):
        listed = [item for item, score in zip(row, of_row, strict=True) if score > -torch.inf]
        places.append(listed.index(target[user]) + 1 if target[user] in listed else 0)
    return places


def test_it_gives_the_very_lists_that_were_evaluated(loaded):
    found, folder = loaded
    kept = read_ranks(folder / "ranks.tsv")
    assert ranks(found, list(kept), None) == [masked for masked, _ in kept.values()]
    assert ranks(found, list(kept), False) == [free for _, free in kept.values()]
    assert any(masked for masked, _ in kept.values())


@pytest.mark.parametrize("loaded", ["OneRecThink"], indirect=True)
def test_a_generative_model_ranks_all_who_are_asked_for_together(loaded, monkeypatch):
    found, _ = loaded
    made, rank = [], found.model.ranker.rank
    monkeypatch.setattr(
        found.model.ranker, "rank", lambda prompts, *more: made.append(len(prompts)) or rank(prompts, *more)
    )
    monkeypatch.setattr(found.splits["test"][0], "step", 7)
    users = list(walks())
    scores = found.full_sort_scores(users)
    assert made == [len(users)], "in the batches of the evaluation, whatever the size of a batch of scores"
    assert all(torch.equal(scores[row], found.full_sort_scores([user])[0]) for row, user in enumerate(users[:3]))


def test_a_list_for_a_user_is_the_sample_of_the_record(loaded):
    found, _ = loaded
    assert found.metrics["samples"]
    for sample in found.metrics["samples"]:
        listed = found.recommend(sample["user"], k=10)
        if found.metrics["model"] not in ("Pop", "ItemKNN"):  # alone, equal scores may swap
            assert [place.title for place in listed] == sample["recommended"]
        assert [place.rank for place in listed] == list(range(1, len(listed) + 1))
        assert all(title(place.item_id) == place.title for place in listed)
        assert {place.item_id for place in listed}.isdisjoint(walks()[sample["user"]][:-1])


def test_a_split_says_how_far_the_history_goes(loaded):
    found, _ = loaded
    world = walks()
    user = next(user for user, met in world.items() if met[-2] not in met[:-2])
    validation = found.full_sort_scores([user], split="valid")[0]
    test = found.full_sort_scores([user])[0]
    event = found.dataset.token2id(found.dataset.iid_field, world[user][-2])
    assert test[event] == -torch.inf
    assert validation[event] > -torch.inf or found.metrics["model"] in GENERATIVE
    assert found.metrics["model"] in ("Pop", *GENERATIVE) or not torch.equal(validation, test)


def test_all_items_are_scored_but_padding_and_raw_and_inner_ids_mean_the_same(loaded):
    found, _ = loaded
    inner = int(found.dataset.token2id(found.dataset.uid_field, "u3"))
    scores = found.full_sort_scores(["u3", "u1"], mask_history=False)
    assert scores.shape == (2, N_ITEMS + 1) and scores[:, 0].isneginf().all()
    torch.testing.assert_close(found.full_sort_scores([inner], mask_history=False)[0], scores[0])


def test_a_history_of_nobody_is_continued_by_models_that_read_histories(loaded):
    found, _ = loaded
    name, history = found.metrics["model"], ["p3", "p4", "p5", "p6"]
    if name in (*GENERATIVE, "SASRec", "S3Rec"):
        masked, free = found.recommend(history, 20), found.recommend(history, 20, mask_history=False)
        assert {place.item_id for place in masked}.isdisjoint(history)
        assert len(masked) == len(free) == 20
        assert {place.item_id for place in free} & set(history)
    else:
        with pytest.raises(InputError, match="give a user id"):
            found.recommend(history)


def test_the_history_of_a_user_gives_the_list_of_the_user(loaded):
    found, _ = loaded
    if found.metrics["model"] in ("OneRecThink", "SASRec", "S3Rec"):
        of_user = [place.item_id for place in found.recommend("u5", 5)]
        assert [place.item_id for place in found.recommend(walks()["u5"][:-1], 5)] == of_user


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (("nobody",), "unknown user 'nobody'"), (("[PAD]",), "unknown user"), ((["p1", "p99"],), "unknown item 'p99'"),
        (([],), "an empty history"), (("u1", 0), "k must be 1 to"), (("u1", 1000), "k must be 1 to"),
        (("u1", 5, None, "tset"), "split must be test or valid"),
    ],
    ids=str,
)  # fmt: skip
def test_what_cannot_be_recommended_is_said(asked, message, loaded):
    with pytest.raises(InputError, match=message):
        loaded[0].recommend(*asked)


def test_a_list_of_users_is_a_list(loaded):
    for wrong in ("u1", []):
        with pytest.raises(InputError, match="list of at least one"):
            loaded[0].full_sort_topk(wrong, 5)
    with pytest.raises(InputError, match="no event"):
        loaded[0].full_sort_topk([10**6], 5)


def finished(model, data_path, folder):
    run(model, "toy", config_dict=settings(model, data_path, folder))
    return folder


@pytest.fixture(scope="module")
def once(toy_path, tmp_path_factory):
    """Makes a finished run of a model, the first time it is asked for it."""
    made = {}

    def of(model):
        if model not in made:
            made[model] = finished(model, toy_path, tmp_path_factory.mktemp(model) / "run")
        return made[model]

    return of


@pytest.mark.parametrize(
    ("model", "gone"),
    [
        ("BPR", "metrics.json"), ("BPR", "fit.json"), ("BPR", "checkpoints"), ("OneRecThink", "itemic"),
        ("OneRecThink", "recommendation"), ("OneRecThink", "evaluation"),
    ],
)  # fmt: skip
def test_a_folder_that_is_no_finished_run_is_refused(model, gone, once, tmp_path):
    folder = shutil.copytree(once(model), tmp_path / "run")
    shutil.rmtree(folder / gone) if (folder / gone).is_dir() else (folder / gone).unlink()
    held = sorted(folder.rglob("*"))
    with pytest.raises(InputError, match="missing"):
        load(folder)
    assert sorted(folder.rglob("*")) == held, "nothing was made to take its place"


def test_a_folder_that_is_no_run_at_all_is_refused(tmp_path):
    for path in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(InputError, match="not a finished run"):
            load(path)


def test_data_that_is_no_longer_what_it_was_is_refused(tmp_path):
    folder = finished("BPR", write_toy(tmp_path / "data"), tmp_path / "run")
    world = walks()
    world["u0"].reverse()
    write_toy(tmp_path / "data", world)
    with pytest.raises(InputError, match="data_fingerprint"):
        load(folder)


def test_weights_that_are_not_those_of_the_evaluation_are_refused(toy_path, tmp_path):
    folder = finished("BPR", toy_path, tmp_path / "run")
    [path] = (folder / "checkpoints").iterdir()
    state = torch.load(path, weights_only=False)
    next(iter(state["state_dict"].values()))[1, 0] += 1
    torch.save(state, path)
    with pytest.raises(InputError, match="weights"):
        load(folder)


def test_a_configuration_that_no_longer_comes_to_the_same_is_refused(toy_path, tmp_path):
    folder = finished("BPR", toy_path, tmp_path / "run")
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "embedding_size": 65}))
    with pytest.raises(InputError, match="embedding_size=65"):
        load(folder)
