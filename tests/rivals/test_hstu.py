"""HSTU is the paper's formula, and knows of a history's items and times what a position may know, and nothing else."""

import itertools
import math
import random
from collections import Counter

import pytest
import torch
from recbole.data.interaction import Interaction
from torch.nn import functional

from recbole_think.config import ThinkConfig
from recbole_think.errors import InputError
from recbole_think.experiment import prepare, run
from recbole_think.rivals.hstu import BUCKETS, HSTU, TICKS
from recbole_think.rivals.windows import WindowBatches
from tests.toy import settings, walks, write_toy

LONGEST = 6
STEPS = max(len(visited) for visited in walks().values()) - 1  # of the toy world: time runs from 0 to 1 in so many
KINDS = [
    {},
    {"request_time": True},
    {"time_bias": False},
    {"similarity": "dot", "temperature": 1.0},
]


@pytest.fixture
def world(tmp_path):
    """A function that makes a model for the walking world, with weights large enough to matter, and the split."""

    def make(**more):
        given = settings("HSTU", write_toy(tmp_path / "data"), tmp_path / "run", **{
            "MAX_ITEM_LIST_LENGTH": LONGEST, "n_layers": 2, "hidden_dropout_prob": 0.0, **more,
        })  # fmt: skip
        config = ThinkConfig("HSTU", "toy", config_dict=given)
        data = prepare(config)
        model = HSTU(config, data.train.dataset)
        dice = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for weight in model.parameters():
                weight.copy_(0.4 * torch.randn(weight.shape, generator=dice))
        return model, data

    return make


def rows(*windows):
    longest = max(len(window) for window in windows)
    return torch.tensor([[*window, *[0] * (longest - len(window))] for window in windows])


def times(*gaps):
    """Ticks of one window, from the gaps between its events."""
    return torch.tensor([list(itertools.accumulate(gaps, initial=1000))])


WINDOW = [3, 7, 1, 9, 4]
TIMES = times(5, 400, 0, 90_000, 7)  # one more than items: the target's


def loss_of(model, windows, moments):
    given = {model.ITEM_SEQ: rows(*windows)}
    if model.time_bias:
        given[model.TIME_SEQ] = rows(*moments)
    return model.calculate_loss(Interaction(given))


def some_windows():
    """Eight windows of 2 to 6 items, and times of theirs."""
    windows = [[1 + (start + step) % 12 for step in range(2 + start % 5)] for start in range(8)]
    moments = [[1 + 10**place * (start + 1) for place in range(len(w))] for start, w in enumerate(windows)]
    return windows, moments


# the paper's equations 1 to 3 with loops, one event and one head at a time, in float64
def slow(model, window, moments):
    known = {name: weight.double() for name, weight in model.state_dict().items()}
    size, heads = model.item_embedding.embedding_dim, model.layers[0].heads
    x = [known["item_embedding.weight"][item] * math.sqrt(size) + known["position_embedding.weight"][place]
         for place, item in enumerate(window)]  # fmt: skip
    for number in range(len(model.layers)):
        x = slow_layer(
            {name.removeprefix(f"layers.{number}."): w for name, w in known.items()}, x, moments, heads, model
        )
    if model.similarity == "cosine":
        return torch.stack([state / state.norm() for state in x])
    return torch.stack([slow_norm(state) for state in x])


def slow_layer(known, x, moments, heads, model):
    u, v, q, k = ([] for _ in range(4))
    for state in x:
        wide = known["uvqk.weight"] @ slow_norm(state)
        for part, some in zip((u, v, q, k), (wide * torch.sigmoid(wide)).chunk(4), strict=True):
            part.append(some.chunk(heads))
    out = []
    for i, state in enumerate(x):
        read = []
        for head in range(heads):
            total = torch.zeros_like(v[0][head])
            for j in range(i + 1):
                score = q[i][head] @ k[j][head] + known["of_distance"][i - j]
                if model.time_bias:
                    asked = moments[i + 1] if model.request_time else moments[i]
                    score = score + known["of_time"][int(math.log(max(asked - moments[j], 1)) / 0.301)]
                total += score * torch.sigmoid(score) / LONGEST * v[j][head]
            read.append(total)
        gated = slow_norm(torch.cat(read)) * torch.cat(u[i])
        out.append(known["out.weight"] @ gated + known["out.bias"] + state)
    return out


def slow_norm(state):
    return (state - state.mean()) / torch.sqrt(state.var(unbiased=False) + 1e-6)


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("length", [1, 2, 5])
def test_it_is_the_formula_of_the_paper(kind, length, world):
    model = world(**kind)[0].double()
    moments = TIMES[:, : length + 1]
    found = model.encode(torch.tensor([WINDOW[:length]]), moments if model.time_bias else None)[0]
    torch.testing.assert_close(found, slow(model, WINDOW[:length], moments[0].tolist()), atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_the_loss_is_the_cross_entropy_of_the_next_items_out_of_all_items_but_padding(kind, world):
    model, _ = world(**kind)
    moments = TIMES[0].tolist()[:5]
    hidden, table = slow(model, WINDOW[:4], moments), model.item_embedding.weight.double()[1:]
    if model.similarity == "cosine":
        table = table / table.norm(dim=1, keepdim=True)
    wanted = functional.cross_entropy(hidden @ table.T / model.temperature, torch.tensor(WINDOW[1:]) - 1)
    torch.testing.assert_close(loss_of(model, [WINDOW], [moments]), wanted.float(), atol=1e-4, rtol=1e-4)


def test_no_position_sees_an_item_of_the_future(world):
    model, _ = world()
    before, after = model.encode(rows([3, 7, 1, 9]), TIMES[:, :5]), model.encode(rows([3, 7, 5, 2]), TIMES[:, :5])
    torch.testing.assert_close(before[:, :2], after[:, :2], atol=0, rtol=0)
    assert all(not torch.allclose(before[:, place], after[:, place]) for place in (2, 3))


@pytest.mark.parametrize(("request_time", "first"), [(False, 3), (True, 2)])
def test_no_position_sees_a_time_after_the_one_it_is_asked_at(request_time, first, world):
    model, _ = world(request_time=request_time)
    later = TIMES.clone()
    later[:, 3:] += 10**6  # of the fourth event and all behind it
    before, after = model.encode(rows(WINDOW), TIMES), model.encode(rows(WINDOW), later)
    torch.testing.assert_close(before[:, :first], after[:, :first], atol=0, rtol=0)
    assert all(not torch.allclose(before[:, place], after[:, place]) for place in range(first, 5))


def test_the_time_of_the_target_is_read_only_if_asked_for(world):
    for request_time in (False, True):
        model, _ = world(request_time=request_time)
        later = TIMES.clone()
        later[:, -1] += 10**6
        same = torch.equal(model.encode(rows(WINDOW), TIMES), model.encode(rows(WINDOW), later))
        assert same is not request_time


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_padding_changes_nothing(kind, world):
    model, _ = world(**kind)
    alone = model.encode(rows([5, 6]), TIMES[:, :3] if model.time_bias else None)
    padded = torch.tensor([[*TIMES[0, :3].tolist(), 0, 0, 0]])
    behind = model.encode(rows([5, 6, 0, 0, 0]), padded if model.time_bias else None)
    torch.testing.assert_close(behind[:, :2], alone)


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_a_batch_of_eight_gives_the_gradients_of_eight_batches_of_one(kind, world):
    model, _ = world(**kind)
    windows, moments = some_windows()
    losses = [loss_of(model, [w], [m]) for w, m in zip(windows, moments, strict=True)]
    counts = [len(window) - 1 for window in windows]
    apart = sum(count * one for count, one in zip(counts, losses, strict=True)) / sum(counts)
    together = loss_of(model, windows, moments)
    torch.testing.assert_close(together, apart)
    learning = list(model.parameters())
    for mine, other in zip(torch.autograd.grad(together, learning), torch.autograd.grad(apart, learning), strict=True):
        torch.testing.assert_close(mine, other, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("request_time", [False, True])
def test_only_differences_of_times_count(request_time, world):
    model, _ = world(request_time=request_time)
    found = model.encode(rows(WINDOW), TIMES)
    assert torch.equal(model.encode(rows(WINDOW), TIMES + 123_456), found)
    assert not torch.allclose(model.encode(rows(WINDOW), TIMES * 1000), found)


def test_buckets_are_logarithms_of_the_time_passed(world):
    model, _ = world(request_time=True)
    for passed, bucket in [(0, 0), (1, 0), (2, 2), (10, 7), (86_400, 37), (TICKS, 55), (2**62, BUCKETS), (-9, 0)]:
        assert model.buckets(torch.tensor([[100, 100 + passed]])).tolist() == [[[bucket]]]


def test_the_buckets_in_use_learn_and_no_others(world):
    model, _ = world()
    loss_of(model, [WINDOW], [TIMES[0].tolist()[:5]]).backward()  # 0, 5, 400 and 405 ticks apart
    assert all(layer.of_time.grad.nonzero()[:, 0].tolist() == [0, 5, 19] for layer in model.layers)


def test_the_order_of_the_past_is_known_by_distance_alone_once_places_have_no_vectors(world):
    model, _ = world(time_bias=False, n_layers=1)
    with torch.no_grad():
        model.position_embedding.weight.zero_()
        one, other = model.encode(rows([3, 7, 1]), None)[:, 2], model.encode(rows([7, 3, 1]), None)[:, 2]
        assert not torch.allclose(one, other)
        model.layers[0].of_distance.fill_(0.3)
        one, other = model.encode(rows([3, 7, 1]), None)[:, 2], model.encode(rows([7, 3, 1]), None)[:, 2]
        torch.testing.assert_close(one, other)


def test_without_the_time_bias_there_are_no_weights_for_it(world):
    model, _ = world(time_bias=False)
    assert not [name for name in model.state_dict() if "of_time" in name] and model.TIME_SEQ not in model.events


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("split", ["valid", "test"])
def test_scores_are_what_the_last_position_of_a_training_window_says(kind, split, world):
    model, data = world(**kind)
    model.eval()
    histories = data.histories if split == "valid" else data.until_test
    loader = getattr(data, split)
    batch, *_ = loader.collate_fn(list(range(len(loader.dataset))))
    with torch.no_grad():
        scores = model.full_sort_predict(batch)
        for user, found in zip(batch["user_id"].tolist(), scores, strict=True):
            items = histories.of(user)
            moments = [round(event / STEPS * TICKS) for event in range(len(items) + 1)]  # a step of a walk apart
            window, moments = items[-LONGEST:].tolist(), moments[-LONGEST - 1 :]
            hidden = model.encode(rows(window), rows(moments) if model.time_bias else None)[0, -1]
            torch.testing.assert_close(found, model.catalogue() @ hidden, atol=1e-5, rtol=1e-5)


def test_the_score_of_an_item_is_that_of_the_whole_catalogue(world):
    model, data = world()
    batch, *_ = data.test.collate_fn(list(range(len(data.test.dataset))))
    with torch.no_grad():
        of_targets = model.full_sort_predict(batch).gather(1, batch[model.ITEM_ID].unsqueeze(1))[:, 0]
        torch.testing.assert_close(model.predict(batch), of_targets)


@pytest.mark.parametrize("epoch", range(2))
def test_an_epoch_trains_every_transition_once_and_at_its_times(epoch, world):
    model, data = world()
    found = Counter()
    for batch in WindowBatches(model, 5, [0, epoch]):
        for items, moments in zip(batch[model.ITEM_SEQ].tolist(), batch[model.TIME_SEQ].tolist(), strict=True):
            length = sum(item > 0 for item in items)
            assert not any(moments[length:])
            steps = [round(moment / TICKS * STEPS) for moment in moments]
            found.update(itertools.pairwise(list(zip(items, steps, strict=True))[:length]))
    wanted = Counter()
    for user in range(1, data.histories.n_users):
        events = enumerate(data.histories.of(user).tolist())
        wanted.update(itertools.pairwise((item, step) for step, item in events))
    assert found == wanted


@pytest.mark.parametrize("of", ["embeddings", "layer", "attention"])
def test_training_is_random_by_each_dropout_and_scoring_is_not(of, world):
    model, _ = world()
    module = model if of == "embeddings" else model.layers[0]
    setattr(module, "attn_dropout" if of == "attention" else "hidden_dropout", 0.5)
    given = [WINDOW], [TIMES[0].tolist()[:5]]
    assert loss_of(model, *given) != loss_of(model, *given)
    model.eval()
    assert loss_of(model, *given) == loss_of(model, *given)


def test_the_rates_of_dropout_are_read(world):
    model, _ = world(hidden_dropout_prob=0.125, attn_dropout_prob=0.25)
    assert [(layer.hidden_dropout, layer.attn_dropout) for layer in model.layers] == [(0.125, 0.25)] * 2
    assert model.hidden_dropout == 0.125


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"similarity": "euclid"}, "similarity='euclid': HSTU knows cosine and dot"),
        ({"temperature": 0}, "temperature must be above 0, got 0"),
        ({"MAX_ITEM_LIST_LENGTH": 0}, "MAX_ITEM_LIST_LENGTH must be a whole number of at least 1, got 0"),
        ({"train_batch_size": 2.5}, "train_batch_size must be a whole number"),
        ({"n_heads": 3}, "hidden_size=16 is not a multiple of n_heads=3"),
        ({"time_bias": False, "request_time": True}, "request_time: true is read by the time bias alone"),
        ({"load_col": {"inter": ["user_id", "item_id"]}}, "time_bias: true reads 'timestamp'; add it to load_col"),
        ({"train_neg_sample_args": {"distribution": "uniform"}}, "does not read 'train_neg_sample_args'"),
    ],
    ids=str,
)
def test_what_it_cannot_do_is_refused_before_anything_is_made(given, message, toy_path, tmp_path):
    with pytest.raises(InputError, match=message):
        run("HSTU", "toy", config_dict=settings("HSTU", toy_path, tmp_path / "run") | given)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("kind", [{}, {"similarity": "dot", "temperature": 1.0}], ids=str)
def test_it_learns_that_one_place_follows_another(kind, tmp_path):
    histories = {f"u{user}": [f"p{(user + step) % 12}" for step in range(9)] for user in range(36)}
    data = write_toy(tmp_path / "data", histories)
    given = settings("HSTU", data, tmp_path / "run", epochs=40, hidden_dropout_prob=0.1, learning_rate=0.01,
                     MAX_ITEM_LIST_LENGTH=4, **kind)  # fmt: skip
    # longer rows would end at a place no training window reaches, whose vector is as it was drawn
    assert run("HSTU", "toy", config_dict=given)["metrics"]["test"]["mrr@5"] == 1.0


def write_waiting(data_path, place):
    """A world of triples a b c or a b d: c after a short wait at ``place`` of the triple, d after a long one."""
    dice, lines = random.Random(0), ["user_id:token\titem_id:token\ttimestamp:float"]
    for user in range(60):
        now = dice.randrange(10**6)
        lines.append(f"u{user}\t{'ef'[user % 2]}\t{now}")  # so that nobody meets the whole catalogue
        for _ in range(4):
            long = dice.random() < 0.5
            for number, item in enumerate("abd" if long else "abc"):
                now += (100_000 if long else 10) if number == place else 1_000
                lines.append(f"u{user}\t{item}\t{now}")
    write_toy(data_path, {"u": list("abcdef")})
    (data_path / "toy" / "toy.inter").write_text("\n".join(lines) + "\n")
    return data_path


@pytest.mark.parametrize(
    ("place", "kind", "learnt"),
    [
        (1, {}, True),
        pytest.param(1, {"time_bias": False}, False, marks=pytest.mark.slow),
        (2, {}, False),
        pytest.param(2, {"request_time": True}, True, marks=pytest.mark.slow),
    ],
)
def test_it_learns_from_waits_it_may_know_of(place, kind, learnt, tmp_path):
    data = write_waiting(tmp_path / "data", place)
    given = settings("HSTU", data, tmp_path / "run", epochs=30, eval_step=30, hidden_dropout_prob=0.0, topk=[1, 2],
                     valid_metric="Recall@1", learning_rate=0.01, MAX_ITEM_LIST_LENGTH=4, **kind)  # fmt: skip
    found = run("HSTU", "toy", config_dict=given)["metrics"]["test"]
    assert found["recall@2"] == 1.0
    assert found["recall@1"] == 1.0 if learnt else found["recall@1"] < 0.8
