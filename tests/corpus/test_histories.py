import random

import numpy as np
import pytest

from recbole_think.corpus.histories import (
    Histories,
    fingerprint,
    from_pairs,
    repeated_share,
    targets,
    training_times,
    without_last,
)
from tests.toy import settings, write_toy


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def small() -> Histories:
    # user 1: 5 3 5, user 2: nothing, user 3: 4
    return from_pairs(np.array([3, 1, 1, 1]), np.array([4, 5, 3, 5]), 4)


def test_pairs_are_grouped_by_user_in_their_order():
    histories = small()
    assert histories.n_users == 4
    assert [histories.of(user).tolist() for user in range(4)] == [[], [5, 3, 5], [], [4]]
    assert histories.items.dtype == histories.starts.dtype == np.int64


def test_no_pairs_make_empty_histories():
    histories = from_pairs(np.array([], dtype=np.int64), np.array([], dtype=np.int64), 3)
    assert [histories.of(user).tolist() for user in range(3)] == [[], [], []]


@pytest.mark.parametrize("users", [[1, 3], [3, 1, 2], [2], [1, 1], [0, 3], []])
def test_cells_are_the_items_of_each_row(users):
    histories = small()
    rows, items = histories.cells(np.array(users, dtype=np.int64))
    wanted = [(row, item) for row, user in enumerate(users) for item in histories.of(user)]
    assert list(zip(rows, items, strict=True)) == wanted


def test_cells_of_random_histories_are_the_items_of_each_row():
    dice = np.random.default_rng(0)
    histories = from_pairs(dice.integers(0, 20, 200), dice.integers(1, 50, 200), 25)
    users = dice.integers(0, 25, 40)
    rows, items = histories.cells(users)
    assert [items[rows == row].tolist() for row in range(40)] == [histories.of(user).tolist() for user in users]


def test_extended_histories_end_with_the_new_event_and_leave_the_old_ones_alone():
    histories = small()
    more = histories.extended(np.array([2, 1]), np.array([9, 8]))
    assert [more.of(user).tolist() for user in range(4)] == [[], [5, 3, 5, 8], [9], [4]]
    assert histories.of(1).tolist() == [5, 3, 5]


def test_the_repeated_share_counts_targets_the_user_met_before():
    assert repeated_share(small(), np.array([1, 1, 2, 3]), np.array([3, 4, 5, 4])) == 0.5


# lines of an .inter file in no order at all; the hand-written split is taken from these lines alone
EVENTS = [
    (user, item, 1_000 + 10 * time)
    for user, items in {
        "ann": ["a", "b", "c", "d", "e", "f", "g", "h"],
        "bob": ["h", "a", "h", "z", "a", "c"],
        "cyd": ["c", "d", "e", "a", "b", "b"],
        "dan": ["g", "f", "a", "b"],
    }.items()
    for time, item in enumerate(items)
]


def split_by_hand(lines):
    """Leave one out, from the text of the file: {user: (training, validation, test)}."""
    events = [line.split("\t") for line in lines[1:]]
    by_user: dict[str, list] = {}
    for user, item, time in events:
        by_user.setdefault(user, []).append((float(time), item))
    order = {user: [item for _, item in sorted(pairs)] for user, pairs in by_user.items()}
    return {user: (items[:-2], items[-2], items[-1]) for user, items in order.items()}


def write_events(folder, events=EVENTS, shuffle=1):
    path = write_toy(folder) / "toy" / "toy.inter"
    lines = ["\t".join(map(str, event)) for event in events]
    random.Random(shuffle).shuffle(lines)
    lines.insert(0, "user_id:token\titem_id:token\ttimestamp:float")
    path.write_text("\n".join(lines) + "\n")
    names = sorted({event[1] for event in events})
    (folder / "toy" / "toy.item").write_text(
        "item_id:token\ttitle:token\n" + "".join(f"{name}\tthe {name}\n" for name in names)
    )
    return lines


def prepared(folder, model, **more):
    from recbole_think.config import ThinkConfig
    from recbole_think.experiment import prepare

    return prepare(ThinkConfig(model, "toy", config_dict=settings(model, folder, folder / "run", **more)))


def raw(data):
    """Training history, validation and test target of every user, in raw ids."""
    dataset = data.train.dataset
    users, items = dataset.field2id_token["user_id"], dataset.field2id_token["item_id"]
    held_out = []
    for loader in (data.valid, data.test):
        held_out.append({users[u]: items[i] for u, i in zip(*targets(loader.dataset), strict=True)})
    return {
        users[u]: (list(items[data.histories.of(u)]), *(part[users[u]] for part in held_out))
        for u in range(1, data.histories.n_users)
    }


MODELS = [("BPR", {}), ("SASRec", {}), ("SASRec", {"MAX_ITEM_LIST_LENGTH": 3}), ("SASRec", {"MAX_ITEM_LIST_LENGTH": 1})]


@pytest.mark.parametrize(("model", "more"), MODELS[:2])
def test_a_user_of_three_events_is_left_out_and_one_of_four_split_alike_in_both_kinds_of_data_set(
    model, more, tmp_path
):
    short = [("eve", item, 1_000 + 10 * time) for time, item in enumerate("cab")]
    four = [("fay", item, 1_000 + 10 * time) for time, item in enumerate("cabd")]
    lines = write_events(tmp_path, EVENTS + short + four)
    found = raw(prepared(tmp_path, model, **more))
    assert "eve" not in found, (
        "RecBole's sequential data sets would give her no validation event, its general ones would"
    )
    assert found["fay"] == split_by_hand(lines)["fay"] == (["c", "a"], "b", "d")


@pytest.mark.parametrize(("model", "more"), MODELS[:2])
@pytest.mark.parametrize("interval", [{}, {"user_inter_num_interval": "[0,inf)"}])
def test_a_user_of_one_event_is_nobodys_test_and_changes_no_others(interval, model, more, tmp_path):
    lines = write_events(tmp_path, [*EVENTS, ("gil", "a", 1_000)])
    data = prepared(tmp_path, model, **more, **interval)
    dataset = data.train.dataset
    names = dataset.field2id_token["user_id"]
    asked = {names[user] for user in targets(data.test.dataset)[0]}
    by_hand = split_by_hand([line for line in lines if not line.startswith("gil")])
    assert asked == by_hand.keys()
    items = dataset.field2id_token["item_id"]
    for user in range(1, data.histories.n_users):
        if names[user] in asked:
            assert list(items[data.histories.of(user)]) == by_hand[names[user]][0]


@pytest.mark.parametrize(("model", "more"), MODELS)
def test_training_histories_are_the_split_made_by_hand_and_whole(model, more, tmp_path):
    lines = write_events(tmp_path)
    data = prepared(tmp_path, model, **more)
    assert raw(data) == split_by_hand(lines)
    assert data.histories.of(0).tolist() == [], "the padding user did nothing"
    by_hand = split_by_hand(lines)
    users, items = (data.train.dataset.field2id_token[name] for name in ("user_id", "item_id"))
    for user in range(1, data.until_test.n_users):
        training, validation, _ = by_hand[users[user]]
        assert list(items[data.until_test.of(user)]) == [*training, validation]
    met = [test in [*training, validation] for training, validation, test in by_hand.values()]
    assert data.repeated == pytest.approx(np.mean(met)) and 0 < data.repeated < 1


@pytest.mark.parametrize(("model", "more"), MODELS)
def test_times_lie_beside_the_items_of_training_histories(model, more, tmp_path):
    # every user's events are ten seconds apart, all within seventy; two events of one user have one time
    twins = [("eve", item, 1_000 + 10 * time) for item, time in zip("cabde", (0, 3, 3, 6, 7), strict=True)]
    write_events(tmp_path, EVENTS + twins)
    data = prepared(tmp_path, model, **more)
    users, times = data.train.dataset.field2id_token["user_id"], training_times(data.train.dataset)
    assert times.shape == data.histories.items.shape
    for user in range(1, data.histories.n_users):
        own = times[data.histories.starts[user] : data.histories.starts[user + 1]]
        steps = [0, 3, 3] if users[user] == "eve" else list(range(len(own)))
        assert own == pytest.approx([step / 7 for step in steps])


def test_the_same_split_has_the_same_fingerprint_in_every_model_and_order_of_lines(tmp_path):
    found = set()
    for number, (model, more) in enumerate(MODELS):
        folder = tmp_path / str(number)
        write_events(folder, shuffle=number)  # RecBole numbers users and items as it meets them
        found.add(prepared(folder, model, **more).fingerprint)
    assert len(found) == 1


@pytest.mark.parametrize("which", range(3))
def test_one_other_event_changes_the_fingerprint(which, tmp_path):
    write_events(tmp_path / "one")
    events = list(EVENTS)
    at = {0: 0, 1: 6, 2: 7}[which]  # a training, the validation, the test event of ann
    user, item, time = events[at]
    events[at] = (user, "b" if item != "b" else "c", time)
    write_events(tmp_path / "two", events)
    assert prepared(tmp_path / "one", "BPR").fingerprint != prepared(tmp_path / "two", "BPR").fingerprint


def test_the_fingerprint_knows_names_and_not_numbers():
    users, items = np.array(["[PAD]", "ann", "bob"]), np.array(["[PAD]", "x", "y", "z"])
    train = from_pairs(np.array([1, 1, 2]), np.array([1, 2, 3]), 3)
    valid, test = (np.array([1, 2]), np.array([3, 1])), (np.array([1, 2]), np.array([2, 2]))
    first = fingerprint(train, valid, test, users=users, items=items)

    new_user, new_item = np.array([0, 2, 1]), np.array([0, 3, 1, 2])  # the same world, numbered otherwise
    other_users, other_items = users[np.argsort(new_user)], items[np.argsort(new_item)]
    renumbered = from_pairs(new_user[[2, 1, 1]], new_item[[3, 1, 2]], 3)
    held_out = [(new_user[u][::-1], new_item[i][::-1]) for u, i in (valid, test)]
    assert fingerprint(renumbered, *held_out, users=other_users, items=other_items) == first

    swapped = fingerprint(train, test, valid, users=users, items=items)
    reordered = fingerprint(
        from_pairs(np.array([1, 1, 2]), np.array([2, 1, 3]), 3), valid, test, users=users, items=items
    )
    assert len({first, swapped, reordered}) == 3


def test_without_the_last_event_of_those_who_have_three_or_more():
    whole = from_pairs(np.array([1, 1, 1, 2, 2, 4, 4, 4, 4]), np.array([5, 6, 7, 8, 9, 1, 2, 3, 4]), 5)
    found = without_last(whole)
    assert [found.of(user).tolist() for user in range(5)] == [[], [5, 6], [8, 9], [], [1, 2, 3]]
    assert found.n_users == whole.n_users
