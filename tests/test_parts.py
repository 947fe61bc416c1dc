"""Data sets whose rows bring their history: every row is ranked, after what came before it, by every kind of model."""

from pathlib import Path

import numpy as np
import pytest

from recbole_think.config import ThinkConfig
from recbole_think.corpus.histories import targets
from recbole_think.errors import InputError
from recbole_think.experiment import prepare
from tests.toy import run_opened, settings

N = 12
COLUMNS = "user_id:token\titem_id_list:token_seq\titem_id:token\n"
PARTS = {
    "benchmark_filename": ["train", "valid", "test"],
    "alias_of_item_id": ["item_id_list"],
    "load_col": {"inter": ["user_id", "item_id_list", "item_id"]},
}


def rows(user: int, first: int, last: int) -> list[str]:
    """A walk round a ring of 12 that began at the user's number: its places from ``first`` to ``last``."""
    walk = [f"p{(user + at) % N}" for at in range(last + 1)]
    return [f"u{user}\t{' '.join(walk[:at])}\t{walk[at]}\n" for at in range(first, last + 1)]


@pytest.fixture(scope="module")
def data_path(tmp_path_factory) -> Path:
    """24 walkers; the last two are met after training alone."""
    folder = tmp_path_factory.mktemp("data") / "ring"
    folder.mkdir()
    parts = {
        "train": [row for user in range(22) for row in rows(user, 1, 5)],
        "valid": [row for user in range(0, 22, 2) for row in rows(user, 6, 7)] + rows(22, 1, 2),
        "test": [row for user in range(0, 22, 3) for row in rows(user, 8, 10)] + rows(22, 3, 3) + rows(23, 1, 2),
    }
    for part, found in parts.items():
        (folder / f"ring.{part}.inter").write_text(COLUMNS + "".join(found), encoding="utf-8")
    items = "".join(f"p{n}\tPlace {n}\n" for n in range(N))
    (folder / "ring.item").write_text("item_id:token\ttitle:token\n" + items, encoding="utf-8")
    return folder.parent


TESTED = 8 * 3 + 1 + 2


def opened(model, data_path, tmp_path, **more):
    return run_opened(model, settings(model, data_path, tmp_path / model, **{**PARTS, **more}), "ring")


def prepared(data_path, tmp_path, model="Pop", **more):
    config = ThinkConfig(model, "ring", config_dict=settings(model, data_path, tmp_path / model, **{**PARTS, **more}))
    config["cache_dir"] = str(tmp_path)
    return config, prepare(config)


@pytest.mark.parametrize(
    "model", ["Pop", "BPR", "ItemKNN", "CoOccurrence", "SASRec", "SASRecAll", "TIGER", "OneRecThink"]
)
def test_models_of_every_kind_rank_every_row(model, data_path, tmp_path):
    stages = {"stages": ["recommendation"]} if model == "OneRecThink" else {}
    metrics = opened(model, data_path, tmp_path, **stages).metrics
    assert metrics["users"] == TESTED
    table = (tmp_path / model / "ranks.tsv").read_text().splitlines()[1:]
    assert [line.split("\t")[0] for line in table[:3]] == ["u0"] * 3, "a row each"
    lengths = [int(line.split("\t")[3]) for line in table if line.startswith("u22\t") or line.startswith("u23\t")]
    assert lengths == [3, 1, 2], "events before each of the rows of those whom training never met"


def test_every_row_is_asked_after_its_own_last_item(data_path, tmp_path):
    found = opened("CoOccurrence", data_path, tmp_path, mask_history=False)
    assert found.metrics["test"]["recall@5"] == 1.0, "the neighbours of the last place, on one side or the other"


def test_popularity_counts_the_first_event_of_every_user_too(data_path, tmp_path):
    found = opened("Pop", data_path, tmp_path)
    counts = found.trainer.model.item_cnt.squeeze().numpy()
    names = found.data.test.dataset.field2id_token["item_id"]
    expected = {f"p{n}": sum((user + at) % N == n for user in range(22) for at in range(6)) for n in range(N)}
    assert {str(name): int(count) for name, count in zip(names[1:], counts[1:], strict=True)} == expected


def test_what_may_be_masked_came_before_the_part(data_path, tmp_path):
    _, data = prepared(data_path, tmp_path)
    users, items = (data.test.dataset.field2id_token[name] for name in ("user_id", "item_id"))
    number = {str(name): at for at, name in enumerate(users)}

    def places(histories, user):
        return [str(items[item]) for item in histories.of(number[user])]

    assert places(data.histories, "u0") == [f"p{n}" for n in range(6)]
    assert places(data.until_valid, "u0") == places(data.histories, "u0")
    assert places(data.until_test, "u0") == [f"p{n}" for n in range(8)]
    assert places(data.histories, "u22") == []
    assert places(data.until_valid, "u22") == ["p10"], "what their first row says they had met"
    assert places(data.until_test, "u22") == ["p10", "p11", "p0"]
    assert places(data.until_test, "u23") == ["p11"]


def test_rows_read_the_latest_items_of_a_long_history(data_path, tmp_path):
    _, data = prepared(data_path, tmp_path, "SASRec", MAX_ITEM_LIST_LENGTH=4)
    dataset = data.test.dataset
    lists = dataset.inter_feat["item_id_list"].numpy()
    assert lists.shape[1] == 4 and dataset.inter_feat["item_length"].max() == 4
    users, _ = targets(dataset)
    row = int(np.flatnonzero(dataset.field2id_token["user_id"][users] == "u0")[2])  # asks for the tenth step
    assert [str(dataset.field2id_token["item_id"][item]) for item in lists[row]] == ["p6", "p7", "p8", "p9"]


def test_a_row_without_a_history_is_refused(data_path, tmp_path):
    folder = copied(data_path, tmp_path)
    with (folder / "ring.valid.inter").open("a") as file:
        file.write("u1\t\tp3\n")
    with pytest.raises(InputError, match="1 rows of train, valid, test have an empty item_id_list"):
        prepared(folder.parent, tmp_path)


def test_a_part_that_is_missing_or_lacks_a_column_is_named(data_path, tmp_path):
    folder = tmp_path / "data" / "ring"
    folder.mkdir(parents=True)
    (folder / "ring.train.inter").write_text(COLUMNS + rows(0, 1, 1)[0])
    with pytest.raises(InputError, match=r"ring\.valid\.inter does not exist"):
        opened("Pop", folder.parent, tmp_path)
    (folder / "ring.valid.inter").write_text("user_id:token\titem_id:token\nu0\tp1\n")
    with pytest.raises(InputError, match=r"ring\.valid\.inter has no column 'item_id_list'"):
        opened("Pop", folder.parent, tmp_path)


def copied(data_path, tmp_path) -> Path:
    folder = tmp_path / "data" / "ring"
    folder.mkdir(parents=True)
    for path in (data_path / "ring").iterdir():
        (folder / path.name).write_text(path.read_text())
    return folder


def test_lists_whose_ids_would_not_be_those_of_items_are_refused(data_path, tmp_path):
    with pytest.raises(InputError, match=r"set alias_of_item_id: \[item_id_list\]"):
        prepared(data_path, tmp_path, alias_of_item_id=None)


def test_a_history_that_begins_longer_than_a_model_reads_is_refused(data_path, tmp_path):
    folder = copied(data_path, tmp_path)
    with (folder / "ring.test.inter").open("a") as file:
        file.write("u99\tp1 p2 p3 p4 p5\tp6\n")
    with pytest.raises(InputError, match="first row of a user brings 5 items, more than MAX_ITEM_LIST_LENGTH=4"):
        prepared(folder.parent, tmp_path, "SASRec", MAX_ITEM_LIST_LENGTH=4)
    prepared(folder.parent, tmp_path, "SASRec", MAX_ITEM_LIST_LENGTH=5)


def test_a_model_without_histories_gives_a_user_one_list_whatever_the_number_of_targets(toy_path, tmp_path):
    many = settings("BPR", toy_path, tmp_path / "run", eval_args={"split": {"RS": [0.6, 0.2, 0.2]}, "group_by": "user"})
    found = run_opened("BPR", many)
    users, _ = targets(found.data.test.dataset)
    assert len(users) > found.metrics["users"] == len(set(users.tolist()))
    table = (tmp_path / "run" / "ranks.tsv").read_text().splitlines()[1:]
    names = found.data.test.dataset.field2id_token["user_id"]
    assert [line.split("\t")[0] for line in table] == [str(names[user]) for user in sorted(set(users.tolist()))]
