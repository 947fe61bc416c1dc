"""SASRecAll is RecBole's SASRec with a loss at every position, and nothing else."""

import itertools
from collections import Counter

import pytest
import torch
from recbole.data.interaction import Interaction
from recbole.model.sequential_recommender import SASRec

from recbole_think.config import ThinkConfig
from recbole_think.errors import InputError
from recbole_think.experiment import prepare, run
from recbole_think.rivals import sasrec
from recbole_think.rivals.sasrec import SASRecAll, negatives
from recbole_think.rivals.windows import WindowBatches
from tests.toy import settings, walks, write_toy

LONGEST = 6


@pytest.fixture
def pair(tmp_path):
    """RecBole's SASRec and ours on the same weights, and the split they were built for."""
    given = settings("SASRecAll", write_toy(tmp_path / "data"), tmp_path / "run", MAX_ITEM_LIST_LENGTH=LONGEST,
                     hidden_dropout_prob=0.0, attn_dropout_prob=0.0, initializer_range=0.3)  # fmt: skip
    config = ThinkConfig("SASRecAll", "toy", config_dict=given)
    data = prepare(config)
    theirs, ours = SASRec(config, data.train.dataset), SASRecAll(config, data.train.dataset)
    ours.load_state_dict(theirs.state_dict())
    return theirs, ours, data


def rows(*windows):
    longest = max(len(window) for window in windows)
    return torch.tensor([[*window, *[0] * (longest - len(window))] for window in windows])


def loss_of(model, *windows):
    model.train()
    return model.calculate_loss(Interaction({model.ITEM_SEQ: rows(*windows)}))


def prefix_losses(model, window):
    """RecBole's own loss of every prefix of a window, each as the padded row RecBole makes of it."""
    found = []
    for length in range(1, len(window)):
        padded = torch.tensor([[*window[:length], *[0] * (LONGEST - length)]])
        found.append(model.calculate_loss(Interaction({
            model.ITEM_SEQ: padded, model.ITEM_SEQ_LEN: torch.tensor([length]),
            model.POS_ITEM_ID: torch.tensor([window[length]]),
        })))  # fmt: skip
    return torch.stack(found)


def test_the_same_weights_give_the_same_scores(pair):
    theirs, ours, data = pair
    batch, *_ = data.test.collate_fn(list(range(len(data.test.dataset))))
    with torch.no_grad():
        assert torch.equal(theirs.eval().full_sort_predict(batch), ours.eval().full_sort_predict(batch))
    assert list(theirs.state_dict()) == list(ours.state_dict())


def test_the_loss_of_a_window_is_the_mean_of_recboles_losses_of_its_prefixes(pair):
    theirs, ours, _ = pair
    window = [3, 7, 1, 9, 4, 2, 8]
    torch.testing.assert_close(loss_of(ours, window), prefix_losses(theirs.train(), window).mean())


def test_gradients_are_those_of_the_prefixes(pair):
    theirs, ours, _ = pair
    windows = [3, 7, 1, 9, 4, 2, 8], [5, 6, 2]
    loss_of(ours, *windows).backward()
    torch.cat([prefix_losses(theirs.train(), window) for window in windows]).mean().backward()
    for (name, mine), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, other.grad, atol=1e-6, rtol=1e-4, msg=name)


def test_no_position_sees_the_future(pair):
    _, ours, _ = pair
    before, after = ours.encode(rows([3, 7, 1, 9])), ours.encode(rows([3, 7, 5, 2]))
    torch.testing.assert_close(before[:, :2], after[:, :2])
    assert not torch.allclose(before[:, 2:], after[:, 2:])


@pytest.mark.parametrize("loss", ["CE", "BCE"])
def test_a_batch_of_eight_gives_the_gradients_of_eight_batches_of_one(pair, loss, monkeypatch):
    _, ours, _ = pair
    ours.loss_type = loss
    monkeypatch.setattr(sasrec, "negatives", lambda rows, _: torch.full_like(rows[:, 1:], 20))  # not drawn, but given
    windows = [[1 + (start + step) % 12 for step in range(2 + start % 5)] for start in range(8)]
    losses, counts = [loss_of(ours, window) for window in windows], [len(window) - 1 for window in windows]
    apart = sum(count * one for count, one in zip(counts, losses, strict=True)) / sum(counts)
    together = loss_of(ours, *windows)
    torch.testing.assert_close(together, apart)
    learning = list(ours.parameters())
    for mine, other in zip(torch.autograd.grad(together, learning), torch.autograd.grad(apart, learning), strict=True):
        torch.testing.assert_close(mine, other, atol=1e-6, rtol=1e-4)


def test_padding_changes_nothing_and_a_batch_is_the_mean_of_its_predictions(pair):
    _, ours, _ = pair
    long, short = [3, 7, 1, 9, 4], [5, 6]
    together = loss_of(ours, long, short)
    torch.testing.assert_close(together, (4 * loss_of(ours, long) + loss_of(ours, short)) / 5)


@pytest.mark.parametrize("epoch", range(3))
def test_an_epoch_trains_every_transition_once(pair, epoch):
    _, ours, data = pair
    found = Counter()
    for batch in WindowBatches(ours, 5, [0, epoch]):
        for row in batch[ours.ITEM_SEQ].tolist():
            window = [item for item in row if item]
            assert 2 <= len(window) <= LONGEST + 1 and row[: len(window)] == window
            found.update(itertools.pairwise(window))
    wanted = Counter()
    for user in range(1, data.histories.n_users):
        wanted.update(itertools.pairwise(data.histories.of(user).tolist()))
    assert found == wanted


def test_windows_are_as_long_as_the_model_reads_so_every_position_is_trained(pair):
    _, ours, data = pair
    longest = max(batch[ours.ITEM_SEQ].shape[1] for batch in WindowBatches(ours, 5, [0, 0]))
    assert longest == LONGEST + 1 < max(len(data.histories.of(user)) for user in range(data.histories.n_users))


def test_epochs_differ_and_a_seed_repeats(pair):
    _, ours, _ = pair

    def drawn(epoch):
        return [batch[ours.ITEM_SEQ].tolist() for batch in WindowBatches(ours, 5, [0, epoch])]

    assert drawn(0) == drawn(0) != drawn(1)


def test_windows_of_like_length_go_together(pair):
    _, ours, _ = pair
    batches = [batch[ours.ITEM_SEQ] for batch in WindowBatches(ours, 8, [0, 0])]
    padding = sum(int((batch == 0).sum()) for batch in batches)
    assert padding < 0.1 * sum(batch.numel() for batch in batches)


def test_every_step_predicts_as_many_items_so_that_each_weighs_the_same(pair):
    _, ours, _ = pair
    batches = [batch[ours.ITEM_SEQ] for batch in WindowBatches(ours, 8, [0, 0])]
    predicted = [int((batch[:, 1:] > 0).sum()) for batch in batches]
    assert max(predicted) - min(predicted) <= LONGEST + 1 and len({len(batch) for batch in batches}) > 1
    windows = sum(len(batch) for batch in batches)
    assert len(batches) == -(-windows // 8)


def test_the_binary_loss_tells_the_next_item_from_a_drawn_one(pair, monkeypatch):
    theirs, ours, _ = pair
    ours.loss_type = "BCE"
    monkeypatch.setattr(sasrec, "negatives", lambda rows, _: torch.tensor([[5, 6, 10]]))
    window, wanted = [3, 7, 1, 9], 0.0
    for length, drawn in zip((1, 2, 3), (5, 6, 10), strict=True):
        padded = torch.tensor([[*window[:length], *[0] * (LONGEST - length)]])
        scores = theirs.full_sort_predict(Interaction({
            theirs.ITEM_SEQ: padded, theirs.ITEM_SEQ_LEN: torch.tensor([length]),
        }))[0]  # fmt: skip
        wanted -= scores[window[length]].sigmoid().log() + (1 - scores[drawn].sigmoid()).log()
    torch.testing.assert_close(loss_of(ours, window), wanted / 3)


def test_negatives_are_every_item_but_those_of_the_window_and_padding():
    given = rows([1, 2, 3, 4, 5], [6, 6]).repeat(200, 1)
    drawn = negatives(given, 8).view(200, 2, 4)
    assert set(drawn[:, 0].flatten().tolist()) == {6, 7}
    assert set(drawn[:, 1].flatten().tolist()) == {1, 2, 3, 4, 5, 7}
    with pytest.raises(InputError, match="no item outside a window"):
        negatives(rows([1, 2, 3]), 4)


def test_training_is_random_by_dropout_and_scoring_is_not(pair):
    _, ours, _ = pair
    ours.hidden_dropout_prob = ours.attn_dropout_prob = 0.5
    assert loss_of(ours, [3, 7, 1, 9]) != loss_of(ours, [3, 7, 1, 9])
    ours.eval()
    assert torch.equal(ours.encode(rows([3, 7, 1])), ours.encode(rows([3, 7, 1])))


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("loss_type", "BPR", "loss_type='BPR': SASRecAll trains with CE or BCE"),
        ("MAX_ITEM_LIST_LENGTH", 0, "MAX_ITEM_LIST_LENGTH must be a whole number of at least 1, got 0"),
        ("train_batch_size", 2.5, "train_batch_size must be a whole number"),
        ("n_heads", 3, "hidden_size=16 is not a multiple of n_heads=3"),
        ("train_neg_sample_args", {"distribution": "uniform"}, "does not read 'train_neg_sample_args'"),
    ],
)
def test_what_it_cannot_do_is_refused_before_anything_is_made(key, value, message, toy_path, tmp_path):
    given = settings("SASRecAll", toy_path, tmp_path / "run") | {key: value}
    with pytest.raises(InputError, match=message):
        run("SASRecAll", "toy", config_dict=given)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("loss", "masked"), [("CE", False), ("BCE", True)])
def test_it_learns_that_one_place_follows_another(loss, masked, tmp_path):
    # the binary loss never holds what a window met against it, so it ranks the past high: it is for masked lists
    histories = {f"u{user}": [f"p{(user + step) % 12}" for step in range(9)] for user in range(36)}
    data = write_toy(tmp_path / "data", histories)
    given = settings("SASRecAll", data, tmp_path / "run", epochs=40, loss_type=loss, mask_history=masked,
                     hidden_dropout_prob=0.1, attn_dropout_prob=0.1, learning_rate=0.01)  # fmt: skip
    metrics = run("SASRecAll", "toy", config_dict=given)["metrics"]
    assert metrics["test"]["mrr@5"] == 1.0


def test_the_toy_world_has_histories_longer_than_a_window():
    assert max(len(visited) for visited in walks().values()) - 2 > LONGEST + 1
