"""TIGER reads histories and writes items: judged against the plain T5, one answer at a time."""

import itertools
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional

from recbole_think.config import ThinkConfig
from recbole_think.corpus.histories import from_pairs
from recbole_think.errors import InputError
from recbole_think.experiment import prepare, run
from recbole_think.prompts.batching import prompt_batch
from recbole_think.rivals.rows import RowBatches, RowTrainer, places
from recbole_think.rivals.tiger import BEGIN, PAD, PROMPT, TARGET, TIGER
from tests.toy import N_ITEMS, settings, write_toy

EXACT = {"atol": 2e-5, "rtol": 1e-4}


@pytest.fixture(scope="module", params=[2, 3])
def world(tmp_path_factory, request):
    """A small TIGER with weights large enough for answers to differ, and the split it was built for."""
    place = tmp_path_factory.mktemp("tiger")
    given = settings("TIGER", write_toy(place / "data"), place / "run", MAX_ITEM_LIST_LENGTH=6)
    given["itemic"] = {**given["itemic"], "levels": request.param, "size": 10 - 2 * request.param}
    config = ThinkConfig("TIGER", "toy", config_dict=given)
    (place / "run").mkdir()
    config["cache_dir"] = str(place / "cache")
    data = prepare(config)
    config["data_fingerprint"] = data.fingerprint
    torch.manual_seed(3)
    model = TIGER(config, data.train.dataset)
    for value in model.t5.parameters():
        value.data += 0.2 * torch.randn_like(value)
    return model.eval(), data


def asked(model, *histories, users=None):
    return model.ranker.prompts([np.array(history) for history in histories], users)


def scored(model, prompt, item):
    """Log-probability of an item after a prompt by the whole T5, with no search, no mask and no padding."""
    codes = torch.from_numpy(model.ranker.item_tokens[item - 1])
    answer = torch.cat([torch.tensor([BEGIN]), codes[:-1]])
    with torch.no_grad():
        logits = model.t5(input_ids=torch.from_numpy(prompt)[None], decoder_input_ids=answer[None]).logits[0]
    found = 0.0
    for level, tokens in enumerate(model.ranker.code_tokens):
        of_level = functional.log_softmax(logits[level, tokens], -1)
        found += float(of_level[codes[level] - tokens[0]])
    return found


def test_the_best_beams_are_the_best_of_all_items_scored_one_by_one(world):
    model, _ = world
    prompts = asked(model, [3, 7, 1, 9], [5], [2, 2, 8, 4, 6, 1])
    ranked = model.ranker.rank(prompts, lambda rows: None)
    for prompt, items in zip(prompts, ranked, strict=True):
        every = sorted(range(1, N_ITEMS + 1), key=lambda item: -scored(model, prompt, item))
        assert items == every, "as many beams as items: nothing may be lost"


def test_scores_of_beams_are_those_of_the_whole_model(world):
    from recbole_think.decoding.beam import Search, search
    from recbole_think.prompts.batching import prompt_batch
    from recbole_think.rivals.t5 import T5Reader

    model, _ = world
    ranker, prompts = model.ranker, asked(model, [3, 7, 1, 9], [5])
    fixed = Search(model.t5, T5Reader(model.t5, BEGIN), ranker.trie, ranker.code_tokens, "level")
    with torch.no_grad():
        found = search(fixed, *fixed.reader.prompts(*prompt_batch(prompts, PAD)), 7)
    for row, prompt in enumerate(prompts):
        wanted = [scored(model, prompt, item + 1) for item in found.items[row].tolist()]
        torch.testing.assert_close(found.scores[row], torch.tensor(wanted), **EXACT)


def test_masked_items_are_never_named_and_the_others_keep_their_order(world):
    model, _ = world
    [prompt] = asked(model, [3, 7, 1])
    [free] = model.ranker.rank([prompt], lambda rows: None)
    mask = torch.zeros(1, N_ITEMS, dtype=torch.bool)
    mask[0, [item - 1 for item in free[:5]]] = True
    [masked] = model.ranker.rank([prompt], lambda rows: mask[rows])
    assert masked == free[5:]
    assert model.take_illegal_rate() == 0.0


def test_a_batch_of_histories_is_ranked_as_each_of_them_alone(world):
    model, _ = world
    prompts = asked(model, [3, 7, 1, 9], [5], [2, 2, 8, 4, 6, 1], [9, 9], users=np.arange(4))
    together = model.ranker.rank(prompts, lambda rows: None)
    assert together == [model.ranker.rank([prompt], lambda rows: None)[0] for prompt in prompts]


def batch_of(model, *pairs):
    """A training batch of (history, next item)."""
    from recbole.data.interaction import Interaction

    from recbole_think.prompts.batching import prompt_batch

    prompts = asked(model, *(history for history, _ in pairs))
    targets = torch.from_numpy(model.ranker.item_tokens[[item - 1 for _, item in pairs]])
    return Interaction({PROMPT: prompt_batch(prompts, PAD)[0], TARGET: targets})


def test_the_loss_is_the_mean_negative_log_probability_of_a_code(world):
    model, _ = world
    pairs = [([3, 7, 1, 9], 4), ([5], 6), ([2, 2, 8, 4, 6, 1], 24)]
    wanted = (
        -np.mean([scored(model, asked(model, history)[0], item) for history, item in pairs]) / model.ranker.trie.levels
    )
    assert float(model.calculate_loss(batch_of(model, *pairs)).detach()) == pytest.approx(wanted, rel=1e-5)


def test_a_batch_of_eight_gives_the_gradients_of_eight_batches_of_one(world):
    model, _ = world
    pairs = [([1 + (start + step) % 12 for step in range(1 + start % 5)], 1 + start) for start in range(8)]
    together = model.calculate_loss(batch_of(model, *pairs))
    apart = torch.stack([model.calculate_loss(batch_of(model, pair)) for pair in pairs]).mean()
    learning = [value for value in model.parameters() if value.requires_grad]
    grads = [torch.autograd.grad(loss, learning, allow_unused=True) for loss in (together, apart)]
    for mine, other in zip(*grads, strict=True):
        if mine is not None:
            torch.testing.assert_close(mine, other, atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("epoch", range(2))
def test_an_epoch_predicts_every_training_event_once_from_what_was_before_it(world, epoch):
    model, data = world
    codes = {tuple(tokens): row + 1 for row, tokens in enumerate(model.ranker.item_tokens.tolist())}
    found, levels = Counter(), model.ranker.item_tokens.shape[1]
    for batch in RowBatches(model, 7, [0, epoch]):
        for prompt, target in zip(batch[PROMPT].tolist(), batch[TARGET].tolist(), strict=True):
            user, *tokens = [token for token in prompt if token != PAD]
            assert user >= model.ranker.first_user
            past = tuple(codes[tuple(tokens[at : at + levels])] for at in range(0, len(tokens), levels))
            found[past, codes[tuple(target)]] += 1
    wanted = Counter()
    for user in range(1, data.histories.n_users):
        history = data.histories.of(user).tolist()
        wanted.update((tuple(history[max(0, at - 6) : at]), history[at]) for at in range(1, len(history)))
    assert found == wanted


@pytest.mark.parametrize("user_tokens", [0, 7])
def test_a_batch_holds_the_prompts_a_list_is_made_from(world, user_tokens, monkeypatch):
    model, data = world
    monkeypatch.setattr(model.ranker, "options", replace(model.ranker.options, user_tokens=user_tokens))
    batches = RowBatches(model, 7, [0, 0])
    for rows in batches.groups:
        users, before = batches.users[rows], batches.places[rows]
        past = [data.histories.of(user)[:place] for user, place in zip(users, before, strict=True)]
        wanted, _ = prompt_batch(model.ranker.prompts(past, users), PAD)
        assert torch.equal(batches.batch(rows)[PROMPT], wanted)


def test_epochs_are_shuffled_alike_for_a_seed_and_otherwise_for_another(world):
    model, _ = world

    def first(seed):
        return next(iter(RowBatches(model, 16, seed)))[PROMPT].tolist()

    assert first([1, 0]) == first([1, 0]) and first([1, 0]) != first([1, 1])


def test_places_are_all_events_but_first_ones():
    histories = from_pairs(np.array([1, 1, 1, 3, 4, 4]), np.array([5, 6, 7, 8, 9, 9]), 6)
    users, at = places(histories)
    assert list(zip(users.tolist(), at.tolist(), strict=True)) == [(1, 1), (1, 2), (4, 1)]


def test_a_user_is_one_of_the_tokens_and_nobody_in_particular_is_none(world):
    model, _ = world
    first, many = model.ranker.first_user, 50
    [one], [other] = (asked(model, [3], users=np.array([user])) for user in (7, 7 + many))
    assert one[0] == other[0] == first + 7 and one[1:].tolist() == model.ranker.item_tokens[2].tolist()
    [nobody] = asked(model, [3])
    assert nobody.tolist() == one[1:].tolist()
    assert model.recommend([np.array([3])]) == model.ranker.rank([nobody], lambda rows: None)
    with pytest.raises(InputError, match="follows no instruction"):
        model.recommend([np.array([3])], instruction="only parks")


def test_an_epoch_is_learnt_at_its_share_of_half_a_cosine_and_without_decay_at_the_whole_rate(tmp_path):
    given = settings("TIGER", write_toy(tmp_path / "data"), tmp_path, epochs=4, learning_rate=0.008)
    config = ThinkConfig("TIGER", "toy", config_dict=given)
    data = prepare(config)
    config["data_fingerprint"] = data.fingerprint
    model = TIGER(config, data.train.dataset)
    trainer = RowTrainer(config, model)
    assert [trainer.rate(epoch) for epoch in (0, 2)] == pytest.approx([0.008, 0.004])
    trainer._train_epoch(data.train, 3)
    assert trainer.optimizer.param_groups[0]["lr"] == pytest.approx(0.004 * (1 - 0.5**0.5))
    model.decode = replace(model.decode, decay=False)
    trainer._train_epoch(data.train, 3)
    assert trainer.optimizer.param_groups[0]["lr"] == 0.008


def test_it_learns_a_ring(tmp_path):
    """Every walker goes on by one place: after enough epochs the next place is the first of every list."""
    ring = {f"u{user}": [f"p{(user + step) % 12}" for step in range(8)] for user in range(36)}
    given = settings("TIGER", write_toy(tmp_path / "data", ring), tmp_path / "run", epochs=60, learning_rate=3e-3,
                     stopping_step=60, train_batch_size=32)  # fmt: skip
    assert run("TIGER", "toy", config_dict=given)["metrics"]["test"]["recall@5"] > 0.9


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"tiger": {"num_beams": 3}}, "cannot fill a top-10 list"),
        ({"tiger": {"layers": 0}}, "tiger.layers must be at least 1"),
        ({"tiger": {"decay": "cosine"}}, "tiger.decay must be bool"),
        ({"tiger": {"dropout": 1.0}}, r"tiger.dropout must lie in \[0, 1\)"),
        ({"tiger": {"normalize": "vocab"}}, "tiger.normalize"),
        ({"tiger": {"widht": 3}}, "widht"),
        ({"loss_type": "BPR"}, "does not read 'loss_type'"),
        ({"eval_args": {"mode": "uni100"}}, "whole catalogue"),
    ],
)
def test_what_would_mean_nothing_is_refused_before_anything_is_written(tmp_path, wrong, said):
    given = settings("TIGER", write_toy(tmp_path / "data"), tmp_path / "run")
    for key, value in wrong.items():
        given[key] = {**given.get(key, {}), **value} if isinstance(value, dict) else value
    with pytest.raises(InputError, match=said):
        run("TIGER", "toy", config_dict=given)
    assert not (tmp_path / "run").exists()


def test_an_interrupted_evaluation_keeps_its_shards(world):
    from recbole_think.shards import ranked_ahead

    model, data = world
    asked_for = data.test.collate_fn(list(range(len(data.test.dataset))))[0]
    plain = model.full_sort_predict(asked_for)
    with ranked_ahead(model, data.test) as ahead:
        assert ahead and torch.equal(model.full_sort_predict(asked_for), plain)


def test_prompts_are_as_long_as_they_are_said_to_be(world):
    model, data = world
    interaction = data.test.dataset.inter_feat
    users, lengths = model.users_and_lengths(interaction)
    prompts = model.asked(interaction).prompts
    assert lengths.tolist() == [len(prompt) for prompt in prompts] and len(users) == len(prompts)
    assert itertools.chain(*prompts) and max(map(len, prompts)) <= 1 + model.ranker.trie.levels * 6
