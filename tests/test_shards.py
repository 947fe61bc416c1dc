import numpy as np
import pytest
import torch
from tqdm import tqdm

from recbole_think import shards
from recbole_think.artifacts import load_tensors
from recbole_think.errors import InputError
from recbole_think.evaluation import evaluate, set_mask
from recbole_think.prompts.batching import token_batches
from recbole_think.shards import Keep, ranked_ahead
from tests.toy import run_opened, settings, write_toy


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards")
    decode = {"num_beams": 20, "tokens_per_batch": 1}  # every user a batch
    data = write_toy(folder / "data")
    given = settings("OneRecThink", data, folder / "run", stages=["recommendation"], decode=decode)
    return run_opened("OneRecThink", given)


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    monkeypatch.setattr(shards, "SHARD_USERS", 9)


def lists(opened, keep=None, **more):
    """User and list of every test row, under the test mask."""
    model = opened.trainer.model
    set_mask(opened.trainer, more.pop("mask", opened.data.until_test))
    with ranked_ahead(model, opened.data.test, keep, **more):
        return list(model.ready)


def killed_after(model, count, monkeypatch):
    """Let the model rank so many shards, then stop."""
    whole, made = model.rank, []

    def rank(asked, done):
        if len(made) == count:
            raise KeyboardInterrupt
        made.append(len(asked.users))
        return whole(asked, done)

    monkeypatch.setattr(model, "rank", rank)
    return made


def test_ranked_ahead_every_row_has_the_list_it_gets_by_itself(opened):
    ahead = lists(opened)
    loader, model = opened.data.test, opened.trainer.model
    for row, (user, items) in enumerate(ahead):
        asked = model.asked(loader.collate_fn([row])[0])
        assert asked.users.tolist() == [user] and model.rank(asked) == [items]


@pytest.mark.parametrize("count", [0, 1, 3])
def test_killed_after_any_shard_an_evaluation_goes_on_to_the_same_lists(opened, tmp_path, monkeypatch, count):
    whole = lists(opened)
    model, keep = opened.trainer.model, Keep(tmp_path / "test.shards", {"weights": "a"})
    model.take_illegal_rate()
    with monkeypatch.context() as patch:
        killed_after(model, count, patch)
        with pytest.raises(KeyboardInterrupt):
            lists(opened, keep)
    assert len(list(keep.folder.glob("shard-*"))) == count
    model.take_illegal_rate()
    with monkeypatch.context() as patch:
        made = killed_after(model, 99, patch)
        assert lists(opened, keep) == whole
    users = len(whole)
    assert sum(made) == users - 9 * count, "what was ranked before is not ranked again"
    illegal, answers = model.ranker.answers
    assert illegal == 0 and answers == sum(len(items) for _, items in whole), "answers of read shards count as well"


def test_shards_of_other_weights_or_data_are_not_read(opened, tmp_path, monkeypatch):
    whole = lists(opened)
    lists(opened, Keep(tmp_path / "s", {"weights": "a", "data": "x"}))
    for other in ({"weights": "b", "data": "x"}, {"weights": "b", "data": "y"}):
        with monkeypatch.context() as patch:
            made = killed_after(opened.trainer.model, 99, patch)
            assert lists(opened, Keep(tmp_path / "s", other)) == whole
        assert sum(made) == len(whole)


def remade(opened, keep, monkeypatch, **more):
    """How many users are ranked again when the evaluation is asked for once more."""
    with monkeypatch.context() as patch:
        made = killed_after(opened.trainer.model, 99, patch)
        lists(opened, keep, **more)
    return sum(made)


def test_shards_made_under_another_mask_for_other_users_or_of_another_size_are_not_read(opened, tmp_path, monkeypatch):
    keep, users = Keep(tmp_path / "s", {}), len(opened.data.test.dataset)
    lists(opened, keep)
    assert remade(opened, keep, monkeypatch) == 0
    assert remade(opened, keep, monkeypatch, mask=None) == users
    assert remade(opened, keep, monkeypatch, mask=opened.data.histories) == users
    assert remade(opened, keep, monkeypatch, rows=range(users - 1), mask=opened.data.histories) == users - 1
    lists(opened, keep)
    monkeypatch.setattr(shards, "SHARD_USERS", 8)
    assert remade(opened, keep, monkeypatch) == users
    assert not list(keep.folder.glob(".*")), "and of what was there before nothing is left"


def test_a_shard_says_whose_lists_it_holds(opened, tmp_path):
    whole = dict(lists(opened, Keep(tmp_path, {})))
    kept = [load_tensors(path) for path in sorted(tmp_path.glob("shard-*"))]
    found = {
        user: [item for item in items if item]
        for shard in kept
        for user, items in zip(shard["users"].tolist(), shard["items"].tolist(), strict=True)
    }
    assert found == whole and len(kept) == len(whole) // 9 + 1


def test_a_damaged_shard_is_named(opened, tmp_path):
    keep = Keep(tmp_path, {})
    lists(opened, keep)
    path = tmp_path / "shard-00001.safetensors"
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(InputError, match=r"shard-00001\.safetensors is damaged"):
        lists(opened, keep)


def test_any_rows_are_ranked_in_the_order_they_are_asked_for(opened):
    whole = lists(opened)
    rows = [5, 2, 2, 17]
    assert lists(opened, rows=rows) == [whole[row] for row in rows]
    assert lists(opened, rows=[]) == []


def test_prompts_are_as_long_as_is_said_before_they_are_made(opened):
    loader, model = opened.data.test, opened.trainer.model
    asked = model.asked(loader.collate_fn(list(range(len(loader.dataset))))[0])
    users, lengths = model.users_and_lengths(loader.dataset.inter_feat)
    assert lengths.tolist() == [len(prompt) for prompt in asked.prompts] and len(set(lengths)) > 2
    assert users.tolist() == asked.users.tolist()


def test_no_more_prompts_exist_than_a_shard_has_users(opened, monkeypatch):
    made, whole = [], opened.trainer.model.ranker.prompts
    monkeypatch.setattr(
        opened.trainer.model.ranker, "prompts", lambda histories: made.append(len(histories)) or whole(histories)
    )
    lists(opened)
    assert max(made) == 9 and sum(made) == len(opened.data.test.dataset)


def test_metrics_are_the_same_with_lists_ranked_ahead_as_batch_by_batch(opened, monkeypatch):
    ahead = evaluate(opened.trainer, opened.data.test, opened.data.until_test)
    monkeypatch.setattr("recbole_think.evaluation.ranked_ahead", lambda *_: ranked_ahead(None, None))
    plain = evaluate(opened.trainer, opened.data.test, opened.data.until_test)
    assert ahead.metrics == plain.metrics and ahead.lists == plain.lists
    assert np.array_equal(ahead.ranks, plain.ranks) and ahead.illegal_rate == 0


def test_an_evaluator_that_asks_for_other_users_is_told_so(opened):
    model, loader = opened.trainer.model, opened.data.test
    with ranked_ahead(model, loader), pytest.raises(RuntimeError, match="other users than were ranked ahead"):
        model.full_sort_predict(loader.collate_fn([3, 2])[0])


def test_a_score_model_is_left_alone():
    model = torch.nn.Linear(1, 1)
    with ranked_ahead(model, None) as ahead:
        assert not ahead and not hasattr(model, "ready")


def test_shards_hold_every_row_once_short_prompts_first_in_whole_batches():
    lengths = np.random.default_rng(0).integers(1, 40, 100).tolist()
    cut = shards.shards(lengths, 120)
    flat = [row for shard in cut for row in shard]
    assert sorted(flat) == list(range(100)) and [lengths[row] for row in flat] == sorted(lengths)
    assert flat == [row for batch in token_batches(lengths, 120) for row in batch]
    assert min(len(shard) for shard in cut[:-1]) >= 9
    assert shards.shards([], 120) == []


def test_by_length_far_less_padding_is_read_than_in_the_order_of_arrival():
    lengths = np.random.default_rng(0).integers(1, 200, 1000)

    def padded(batches):
        return sum(max(lengths[batch]) * len(batch) for batch in batches)

    arrival = [list(range(begin, begin + 20)) for begin in range(0, 1000, 20)]
    assert padded(token_batches(lengths, 2000)) < 1.05 * lengths.sum() < 1.7 * lengths.sum() < padded(arrival)


def test_the_order_of_the_users_changes_no_list(opened):
    model, loader = opened.trainer.model, opened.data.test
    rows = np.random.default_rng(0).permutation(len(loader.dataset)).tolist()
    whole = model.rank(model.asked(loader.collate_fn(list(range(len(rows))))[0]))
    assert model.rank(model.asked(loader.collate_fn(rows)[0])) == [whole[row] for row in rows]


@pytest.mark.parametrize("count", [0, 2])
def test_the_bar_counts_users_batch_by_batch_from_where_it_goes_on_up_to_all_of_them(
    opened, tmp_path, monkeypatch, count
):
    bars, users = [], len(opened.data.test.dataset)

    class Bar(tqdm):
        def __init__(self, *args, **given):
            super().__init__(*args, **given)
            self.seen, self.shown = [self.n], not self.disable
            bars.append(self)

        def update(self, n=1):
            super().update(n)
            self.seen.append(self.n)

    keep = Keep(tmp_path, {})
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        killed_after(opened.trainer.model, count, patch)
        lists(opened, keep)
    monkeypatch.setattr(shards, "tqdm", Bar)
    lists(opened, keep, show_progress=True)
    [bar] = bars
    assert (bar.total, bar.unit, bar.shown) == (users, "user", True)
    assert bar.seen == list(range(9 * count, users + 1)), "every user is a batch of its own here"


def test_there_is_no_bar_unless_it_is_asked_for(opened, capsys):
    lists(opened)
    assert "user" not in capsys.readouterr().err


@pytest.mark.slow
def test_lists_made_by_two_processes_are_those_of_one_and_are_kept_shard_by_shard(opened, tmp_path, monkeypatch):
    model = opened.trainer.model
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    model.take_illegal_rate()
    alone = lists(opened)
    answers = model.ranker.answers
    monkeypatch.setattr(model, "processes", 2)
    model.take_illegal_rate()
    keep = Keep(tmp_path / "kept", {"weights": "w"})
    assert lists(opened, keep) == alone and model.ranker.answers == answers
    made = sorted((tmp_path / "kept").glob("*.safetensors"))
    assert len(made) == -(-len(alone) // 9)
    made[1].unlink()
    assert lists(opened, keep) == alone, "what is missing is made again, by whatever process"


def test_an_evaluation_by_two_processes_gives_the_very_metrics_of_one(opened, monkeypatch):
    trainer, data = opened.trainer, opened.data
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    one = evaluate(trainer, data.test, data.until_test)
    monkeypatch.setattr(trainer.model, "processes", 2)
    two = evaluate(trainer, data.test, data.until_test)
    assert two.metrics == one.metrics and two.ranks.tolist() == one.ranks.tolist()
    assert two.illegal_rate == one.illegal_rate == 0.0
