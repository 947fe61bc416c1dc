"""ReaRec reasons at every position of a window as it would on that prefix alone, and learns by the losses it names."""

import math

import pytest
import torch
from recbole.data.interaction import Interaction
from torch.distributions import Categorical, kl_divergence

from recbole_think.config import ThinkConfig
from recbole_think.errors import InputError
from recbole_think.experiment import prepare, run
from recbole_think.rivals.rearec import ReaRec, contrast, divergence
from recbole_think.rivals.sasrec import SASRecAll
from tests.toy import settings, write_toy

LONGEST = 6
WINDOW = [3, 7, 1, 9, 4, 2, 8]
BOTH = pytest.mark.parametrize("learning", ["erl", "prl"])


@pytest.fixture
def make(tmp_path):
    """A function that builds a model with large weights and no dropout."""
    data = write_toy(tmp_path / "data")

    def made(cls=ReaRec, **more):
        given = settings("ReaRec", data, tmp_path / "run", MAX_ITEM_LIST_LENGTH=LONGEST, hidden_dropout_prob=0.0,
                         attn_dropout_prob=0.0, initializer_range=0.3, n_layers=2, temperature=0.5)  # fmt: skip
        config = ThinkConfig("ReaRec", "toy", config_dict=given | more)
        torch.manual_seed(5)
        return cls(config, prepare(config).train.dataset)

    return made


@pytest.fixture
def known_noise(monkeypatch):
    """Noise that is the same at every position, whatever else is in the batch."""
    monkeypatch.setattr(torch, "randn_like", lambda x: torch.linspace(-1, 1, x.shape[-1]).expand_as(x))


def rows(*windows):
    longest = max(len(window) for window in windows)
    return torch.tensor([[*window, *[0] * (longest - len(window))] for window in windows])


def loss_of(model, *windows):
    return model.train().calculate_loss(Interaction({model.ITEM_SEQ: rows(*windows)}))


def alone(model, prefix, noised=False):
    """r_0 to r_K of one prefix, [K + 1, d]: what entered so far is read again at each step, by RecBole's encoder."""

    def read(entered):
        hidden = torch.full((len(entered), len(entered)), -1e9).triu(1)[None, None]
        return model.trm_encoder(model.LayerNorm(entered)[None], hidden, output_all_encoded_layers=False)[0][0, -1]

    entered = model.item_embedding(torch.tensor(prefix)) + model.position_embedding.weight[: len(prefix)]
    twin, states = entered, []
    noise = model.noise * torch.linspace(-1, 1, entered.shape[1])
    for step in model.step_embedding.weight:
        states.append((read(entered), read(twin)))
        following = (states[-1][0] + step)[None]
        entered, twin = torch.cat([entered, following]), torch.cat([twin, following + noise])
    states.append((read(entered), read(twin)))
    return torch.stack([pair[noised] for pair in states])


def prefixes(*windows):
    """Every prefix with its target and the number of its window."""
    return [(window[:end], window[end], place) for place, window in enumerate(windows) for end in range(1, len(window))]


def surprise(model, state, target, temperature):
    return -(state @ model.item_embedding.weight.T / temperature).log_softmax(0)[target]


@BOTH
def test_without_a_step_it_is_the_all_position_sasrec(learning, make):
    more = {"learning": learning, "reasoning_steps": 0, "temperature": 1, "hidden_dropout_prob": 0.4}
    model, plain = make(**more), make(SASRecAll, **more)
    weights = plain.state_dict()
    found = model.state_dict()
    assert found.pop("step_embedding.weight").shape == (0, 16)
    assert all(torch.equal(weights[name], found[name]) for name in weights) and len(found) == len(weights)
    losses = []
    for one in (model, plain):
        torch.manual_seed(1)
        losses.append(loss_of(one, WINDOW, [5, 6, 2]))
    assert torch.equal(*losses)
    asked = Interaction({model.ITEM_SEQ: rows(WINDOW[:6], [5, 6]), model.ITEM_SEQ_LEN: torch.tensor([6, 2])})
    torch.testing.assert_close(model.eval().full_sort_predict(asked), plain.eval().full_sort_predict(asked))


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_every_position_reasons_as_its_prefix_would_alone(steps, make):
    model = make(reasoning_steps=steps)
    states = model.reason(rows(WINDOW[:6], [5, 6, 2]))
    assert states.shape == (steps + 1, 2, 6, 16)
    for prefix, _, place in prefixes(WINDOW, [5, 6, 2, 1]):
        torch.testing.assert_close(states[:, place, len(prefix) - 1], alone(model, prefix), atol=1e-5, rtol=1e-4)


def test_a_twin_takes_in_its_originals_thoughts_with_noise(make, known_noise):
    model = make(noise=0.3)
    states = model.reason(rows(WINDOW[:6], [5, 6, 2]), twins=True)
    assert states.shape == (3, 4, 6, 16)
    for prefix, _, place in prefixes(WINDOW, [5, 6, 2, 1]):
        for row, noised in ((place, False), (2 + place, True)):
            wanted = alone(model, prefix, noised)
            torch.testing.assert_close(states[:, row, len(prefix) - 1], wanted, atol=1e-5, rtol=1e-4)


@BOTH
def test_the_gradients_are_those_of_the_prefixes(learning, make):
    model = make(learning=learning, contrastive_weight=0, divergence_weight=0)
    loss_of(model, WINDOW, [5, 6, 2]).backward()
    got = {name: value.grad.clone() for name, value in model.named_parameters()}
    model.zero_grad()
    losses = []
    for prefix, target, _ in prefixes(WINDOW, [5, 6, 2]):
        first, second, third = alone(model, prefix)
        if learning == "erl":
            losses.append(surprise(model, (first + second + third) / 3, target, 0.5))
        else:
            earlier = surprise(model, first, target, 12.5) + surprise(model, second, target, 2.5)
            losses.append(surprise(model, third, target, 0.5) + earlier / 2)
    torch.stack(losses).mean().backward()
    for name, value in model.named_parameters():
        torch.testing.assert_close(got[name], value.grad, atol=1e-5, rtol=1e-3, msg=name)


def test_no_position_sees_the_future(make):
    before, after = make().reason(rows([3, 7, 1, 9])), make().reason(rows([3, 7, 5, 2]))
    assert torch.equal(before[:, :, :2], after[:, :, :2])
    assert all(not torch.allclose(one, other) for one, other in zip(before[:, 0, 2], after[:, 0, 2], strict=True))


@BOTH
def test_padding_changes_nothing_and_a_batch_is_the_mean_of_its_predictions(learning, make):
    model = make(learning=learning, contrastive_weight=0)
    together = loss_of(model, [3, 7, 1, 9, 4], [5, 6])
    torch.testing.assert_close(together, (4 * loss_of(model, [3, 7, 1, 9, 4]) + loss_of(model, [5, 6])) / 5)


@BOTH
def test_a_batch_of_eight_gives_the_gradients_of_eight_batches_of_one(learning, make):
    model = make(learning=learning, contrastive_weight=0, divergence_weight=0.3)
    windows = [[1 + (start + step) % 12 for step in range(2 + start % 5)] for start in range(8)]
    count = [len(window) - 1 for window in windows]
    apart = sum(number * loss_of(model, window) for number, window in zip(count, windows, strict=True)) / sum(count)
    learning_ones = list(model.parameters())
    for mine, other in zip(
        torch.autograd.grad(loss_of(model, *windows), learning_ones),
        torch.autograd.grad(apart, learning_ones),
        strict=True,
    ):
        torch.testing.assert_close(mine, other, atol=1e-5, rtol=1e-3)


def test_the_divergence_is_the_mean_over_ordered_pairs_of_steps():
    states, table = torch.randn(4, 5, 8), torch.randn(30, 8)
    said = [Categorical(logits=state @ table.T) for state in states]
    pairs = [kl_divergence(one, other) for one in said for other in said if one is not other]
    torch.testing.assert_close(divergence(states, table), torch.stack(pairs).mean())
    torch.testing.assert_close(divergence(states[:1].expand(3, -1, -1), table), torch.tensor(0.0), atol=1e-6, rtol=0)


def test_only_the_first_of_a_pair_learns_from_their_divergence():
    states, table = torch.randn(3, 5, 8), torch.randn(30, 8)
    free = [value.clone().requires_grad_() for value in (states, table)]
    fixed = [Categorical(logits=state @ table.T) for state in states]
    said = [Categorical(logits=state @ free[1].T) for state in free[0]]
    pairs = [
        kl_divergence(one, other)
        for place, one in enumerate(said)
        for partner, other in enumerate(fixed)
        if place != partner
    ]
    wanted = torch.autograd.grad(torch.stack(pairs).mean(), free)
    for got, want in zip(torch.autograd.grad(divergence(*free), free), wanted, strict=True):
        torch.testing.assert_close(got, want)


def test_the_ensemble_is_judged_by_its_mean_and_rewarded_for_disagreeing(make):
    model = make(learning="erl", divergence_weight=0.2)
    losses, said = [], []
    for prefix, target, _ in prefixes(WINDOW, [5, 6, 2]):
        states = alone(model, prefix)
        losses.append(surprise(model, states.mean(0), target, 0.5))
        voices = [Categorical(logits=state @ model.item_embedding.weight.T / 0.5) for state in states]
        said += [kl_divergence(one, other) for one in voices for other in voices if one is not other]
    wanted = torch.stack(losses).mean() - 0.2 * torch.stack(said).mean()
    torch.testing.assert_close(loss_of(model, WINDOW, [5, 6, 2]), wanted)


def test_a_twin_is_to_find_its_original_among_the_states_of_other_windows():
    noised, states, window = torch.randn(2, 4, 8), torch.randn(2, 4, 8), torch.tensor([0, 0, 0, 3])
    losses = []
    for step in range(2):
        for one in range(4):
            others = [other for other in range(4) if other == one or window[other] != window[one]]
            scores = {other: math.exp(noised[step, one] @ states[step, other] / 0.7) for other in others}
            losses.append(-math.log(scores[one] / sum(scores.values())))
    assert contrast(noised, states, window, 0.7).item() == pytest.approx(sum(losses) / len(losses), rel=1e-5)


def test_progress_is_judged_at_falling_temperatures_and_by_its_twins(make, known_noise):
    model = make(
        learning="prl", temperature=6.0, noise=3.0, annealing=3.0, progressive_weight=0.4, contrastive_weight=0.6
    )
    asked = prefixes(WINDOW, [5, 6, 2])
    clean, noised = ([alone(model, prefix, twin) for prefix, *_ in asked] for twin in (False, True))
    wanted = 0.0
    for (_, target, window), states, twins in zip(asked, clean, noised, strict=True):
        wanted += surprise(model, states[2], target, 6)
        wanted += 0.4 * (surprise(model, states[1], target, 18) + surprise(model, states[0], target, 54)) / 2
        others = [other for other, (*_, place) in zip(clean, asked, strict=True) if place != window]
        for step in (1, 2):
            scores = torch.stack([states, *others])[:, step] @ twins[step] / 6
            wanted -= 0.6 * scores.log_softmax(0)[0] / 2
    torch.testing.assert_close(loss_of(model, WINDOW, [5, 6, 2]), wanted / len(asked))


def test_a_window_by_itself_has_nothing_to_be_told_from(make):
    losses = [loss_of(make(learning="prl", contrastive_weight=weight), WINDOW) for weight in (1e-9, 5)]
    torch.testing.assert_close(*losses)


def test_noise_is_drawn_for_twins_alone_and_dropout_in_training_alone(make):
    model = make(learning="prl", noise=2.0)
    assert loss_of(model, WINDOW, [5, 6, 2]) != loss_of(model, WINDOW, [5, 6, 2])
    assert torch.equal(model.reason(rows(WINDOW[:6]), twins=True)[:, 0], model.reason(rows(WINDOW[:6]))[:, 0])
    model.hidden_dropout_prob = model.attn_dropout_prob = 0.5
    assert not torch.equal(model.reason(rows(WINDOW[:6])), model.reason(rows(WINDOW[:6])))
    model.eval()
    assert torch.equal(model.reason(rows(WINDOW[:6])), model.reason(rows(WINDOW[:6])))


@BOTH
def test_in_mixed_precision_the_losses_keep_all_digits(learning, make, monkeypatch):
    model = make(learning=learning, temperature=0.07)
    states = model.reason(rows(WINDOW[:6], [5, 6]), model.twins).bfloat16()
    monkeypatch.setattr(model, "reason", lambda *_: states)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = loss_of(model, WINDOW, [5, 6, 2])
    monkeypatch.setattr(model, "reason", lambda *_: states.float())
    assert torch.equal(mixed, loss_of(model, WINDOW, [5, 6, 2]))


def test_embeddings_of_steps_begin_as_wide_as_all_others(make):
    assert 0 < make(reasoning_steps=4, initializer_range=0.001).step_embedding.weight.std() < 0.002


@BOTH
def test_scores_are_made_of_the_last_position_as_the_loss_is(learning, make):
    model = make(learning=learning).eval()
    asked = Interaction({model.ITEM_SEQ: rows(WINDOW[:6], [5, 6]), model.ITEM_SEQ_LEN: torch.tensor([6, 2]),
                         model.ITEM_ID: torch.tensor([8, 1])})  # fmt: skip
    scores = model.full_sort_predict(asked)
    for row, prefix in enumerate((WINDOW[:6], [5, 6])):
        states = model.reason(rows(prefix))[:, 0, -1]
        user = states.mean(0) if learning == "erl" else states[2]
        torch.testing.assert_close(scores[row], user @ model.item_embedding.weight.T)
    torch.testing.assert_close(model.predict(asked), scores[[0, 1], [8, 1]])


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("loss_type", "BCE", "loss_type='BCE': ReaRec trains with CE"),
        ("learning", "rl", "learning='rl': ReaRec learns by erl or prl"),
        ("reasoning_steps", 1.5, "reasoning_steps must be a whole number of at least 0, got 1.5"),
        ("reasoning_steps", -1, "reasoning_steps must be a whole number of at least 0, got -1"),
        ("temperature", 0, "temperature must be a number above 0, got 0"),
        ("annealing", "x", "annealing must be a number above 0, got 'x'"),
        ("noise", -0.1, "noise must be a number of at least 0, got -0.1"),
        ("divergence_weight", math.nan, "divergence_weight must be a number of at least 0, got nan"),
        ("progressive_weight", None, "progressive_weight must be a number of at least 0, got None"),
        ("contrastive_weight", math.inf, "contrastive_weight must be a number of at least 0, got inf"),
        ("n_heads", 3, "hidden_size=16 is not a multiple of n_heads=3"),
        ("train_neg_sample_args", {"distribution": "uniform"}, "does not read 'train_neg_sample_args'"),
    ],
)
def test_what_it_cannot_do_is_refused_before_anything_is_made(key, value, message, toy_path, tmp_path):
    given = settings("ReaRec", toy_path, tmp_path / "run") | {key: value}
    with pytest.raises(InputError, match=message):
        run("ReaRec", "toy", config_dict=given)
    assert not (tmp_path / "run").exists()


@BOTH
def test_it_learns_that_one_place_follows_another(learning, tmp_path):
    histories = {f"u{user}": [f"p{(user + step) % 12}" for step in range(9)] for user in range(36)}
    data = write_toy(tmp_path / "data", histories)
    given = settings("ReaRec", data, tmp_path / "run", epochs=40, learning=learning, hidden_dropout_prob=0.1,
                     attn_dropout_prob=0.1, learning_rate=0.01)  # fmt: skip
    assert run("ReaRec", "toy", config_dict=given)["metrics"]["test"]["mrr@5"] == 1.0
