import functools
import itertools
import math
from collections import Counter

import numpy as np
import pytest
import torch
from torch.nn import functional

from recbole_think.corpus.histories import from_pairs
from recbole_think.decoding.beam import beam_search
from recbole_think.decoding.trie import SidTrie
from recbole_think.errors import InputError
from recbole_think.prompts.batching import IGNORED, Row, packed_batch, prompt_batch
from recbole_think.prompts.tasks import recommendation_example, recommendation_frame, recommendation_prompt
from recbole_think.stages import training
from recbole_think.stages.checkpoints import last_checkpoint
from recbole_think.stages.loss import token_loss
from recbole_think.stages.options import RecommendationOptions
from recbole_think.stages.recommendation import Recommendation
from recbole_think.stages.stage import Context, run_stages
from recbole_think.stages.training import freeze_words
from tests.small import distinct_codes, taught

N, SIZES = 12, (4, 4)
TABLE = distinct_codes(N, SIZES, seed=3)


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def ring(n_users=36, length=6):
    """Item k is always followed by item k + 1, and the last by the first."""
    users = np.repeat(np.arange(1, n_users + 1), length)
    items = np.concatenate([(start + np.arange(length)) % N + 1 for start in range(n_users)])
    return from_pairs(users, items, n_users + 1)


def world(folder, validate=None, seed=5) -> Context:
    model, vocabulary = taught(TABLE, SIZES, seed)
    made = Context(
        folder=folder, model=model, vocabulary=vocabulary, histories=ring(), validate=validate, seed=seed,
        facts={"data_fingerprint": "ring"}, scalar=lambda *_: None, show_progress=False,
    )  # fmt: skip
    made.validate = validate or (lambda users, think: recall(made))
    return made


def recall(context: Context) -> float:
    """Share of items whose successor is named first, after a history of three."""
    frame = recommendation_frame(context.vocabulary.tokenizer)
    histories = [(last - np.arange(3)[::-1]) % N + 1 for last in range(N)]
    prompts = [recommendation_prompt(frame, context.vocabulary, history) for history in histories]
    ids, attention = prompt_batch(prompts, context.vocabulary.tokenizer.pad_token_id)
    trie = SidTrie(torch.from_numpy(TABLE))
    found = beam_search(context.model, ids, attention, trie, context.vocabulary.code_tokens, 3, "level")
    wanted = torch.tensor([history[-1] % N for history in histories])  # row of the item after it
    return float((found.items[:, 0] == wanted).float().mean())


def options(**more) -> RecommendationOptions:
    return RecommendationOptions(
        **{
            "epochs": 6, "learning_rate": 1e-2, "row_learning_rate": 1e-2, "tokens_per_batch": 200, "row_tokens": 100,
            "precision": "float32", "validations": 3, "checkpoints": 0, "dropout": 0.0,
            **more,
        }
    )  # fmt: skip


LEARNT = options(epochs=16, learning_rate=5e-3, validations=1)
WINDOWS = [[1, 2, 3], [4, 5], [9, 2, 9, 7], [3, 3], [8, 6, 11, 12, 1], [5, 2], [7, 10, 4], [12, 1]]


def batch_of(vocabulary, rows):
    frame = recommendation_frame(vocabulary.tokenizer)
    examples = [[recommendation_example(frame, vocabulary, np.array(window)) for window in row] for row in rows]
    return packed_batch([Row(row, len(frame)) for row in examples], vocabulary.tokenizer.pad_token_id)


def by_hand(model, vocabulary, window) -> list[torch.Tensor]:
    """Cross-entropy of every predicted token of one window, from plain logits of the plain sequence."""
    frame = recommendation_frame(vocabulary.tokenizer)
    ids = torch.from_numpy(recommendation_prompt(frame, vocabulary, np.array(window)))
    logits = model(ids[None]).logits[0]
    losses = []
    for number in range(1, len(window)):
        for level, tokens in enumerate(vocabulary.code_tokens):
            at = len(frame) + number * len(SIZES) + level
            losses.append(functional.cross_entropy(logits[at - 1, tokens][None], (ids[at] - tokens[0])[None]))
    return losses


def test_the_loss_is_the_mean_cross_entropy_among_the_codes_of_each_level():
    model, vocabulary = taught(TABLE, SIZES)
    rows = [WINDOWS[:2], WINDOWS[2:3], WINDOWS[3:6]]
    losses = [loss for row in rows for window in row for loss in by_hand(model, vocabulary, window)]
    found = token_loss(model, batch_of(vocabulary, rows), vocabulary.code_tokens, 0.5)
    assert float(found.detach()) == pytest.approx(float(torch.stack(losses).mean().detach()), abs=1e-5), (
        "no dropout outside training"
    )


def test_a_batch_of_eight_is_eight_batches_of_one_in_loss_and_gradients():
    model, vocabulary = taught(TABLE, SIZES)
    freeze_words(model)

    def measured(batches):
        model.zero_grad()
        counts = [int((batch["labels"] != IGNORED).sum()) for batch in batches]
        loss = sum(
            token_loss(model, batch, vocabulary.code_tokens, 0.0) * count / sum(counts)
            for batch, count in zip(batches, counts, strict=True)
        )
        loss.backward()
        return float(loss.detach()), {
            name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None
        }

    loss, gradients = measured([batch_of(vocabulary, [WINDOWS[:3], WINDOWS[3:4], WINDOWS[4:]])])
    alone, of_alone = measured([batch_of(vocabulary, [[window]]) for window in WINDOWS])
    assert loss == pytest.approx(alone, abs=1e-5)
    assert gradients.keys() == of_alone.keys() and gradients
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, of_alone[name], atol=1e-5, rtol=1e-4)


def test_dropout_changes_the_loss_in_training_alone():
    model, vocabulary = taught(TABLE, SIZES)
    batch = batch_of(vocabulary, [WINDOWS[:2]])
    with torch.no_grad():
        still = [float(token_loss(model.eval(), batch, vocabulary.code_tokens, 0.5)) for _ in range(2)]
        moving = [float(token_loss(model.train(), batch, vocabulary.code_tokens, 0.5)) for _ in range(2)]
    assert still[0] == still[1] and moving[0] != moving[1]


def test_everything_learns_but_the_rows_of_words():
    model, vocabulary = taught(TABLE, SIZES)
    freeze_words(model)
    words = model.get_input_embeddings().text.weight
    assert not words.requires_grad and not model.get_output_embeddings().text.weight.requires_grad
    frozen = [name for name, value in model.named_parameters() if not value.requires_grad]
    assert len(frozen) == 1, "the tiny backbone ties its words: one tensor"
    token_loss(model, batch_of(vocabulary, [WINDOWS]), vocabulary.code_tokens, 0.0).backward()
    assert words.grad is None
    rows = model.get_input_embeddings().rows.grad
    used = np.unique(np.concatenate([vocabulary.item_tokens[np.array(w) - 1].ravel() for w in WINDOWS]))
    assert (rows[used - vocabulary.first].abs().sum(1) > 0).all()


@pytest.mark.parametrize(("row_tokens", "tokens_per_batch"), [(1, 1), (80, 200), (150, 1000), (10_000, 20_000)])
def test_the_plan_holds_every_transition_once_an_epoch_within_its_budgets(row_tokens, tokens_per_batch, tmp_path):
    context = world(tmp_path)
    epochs = 3
    wanted_options = options(epochs=epochs, row_tokens=row_tokens, tokens_per_batch=tokens_per_batch)
    plan = Recommendation(wanted_options, max_history=3).plan(context)
    frame, item_of = len(recommendation_frame(context.vocabulary.tokenizer)), by_tokens(context.vocabulary)
    examples = [example for batch in plan.batches for row in batch for example in row.examples]
    cut = [[item_of[tuple(t)] for t in e.input_ids[frame:].reshape(-1, len(SIZES)).tolist()] for e in examples]
    found = Counter(pair for window in cut for pair in itertools.pairwise(window))
    wanted = Counter()
    for user in range(1, context.histories.n_users):
        wanted.update(itertools.pairwise(context.histories.of(user).tolist()))
    assert found == Counter({pair: epochs * count for pair, count in wanted.items()})
    assert max(map(len, cut)) == 4, "three items of history and the next"
    longest = frame + 4 * len(SIZES)
    for number, batch in enumerate(plan.batches):
        made = plan[number]
        rows, width = made["input_ids"].shape
        assert rows * width <= tokens_per_batch or rows == 1
        assert width <= max(row_tokens, longest)
        supervised = sum(len(e.input_ids) - frame - len(SIZES) for row in batch for e in row.examples)
        assert int((made["labels"] != IGNORED).sum()) == supervised
    bodies = sum(len(example.input_ids) - frame for example in examples)
    assert plan.tokens == bodies + frame * sum(len(batch) for batch in plan.batches)


@pytest.mark.parametrize("tokens", [1, 700, 2_000])
def test_a_plan_may_be_cut_to_a_budget_of_tokens(tokens, tmp_path):
    whole, cut = (Recommendation(options(tokens=limit), 5).plan(world(tmp_path)) for limit in (0, tokens))
    assert 1 <= len(cut) < len(whole)
    assert cut.tokens <= tokens or len(cut) == 1
    following = sum(row.tokens for row in whole.batches[len(cut)])
    assert cut.tokens + following > tokens, "not a batch less than fits"
    kept = [example.input_ids.tolist() for batch in cut.batches for row in batch for example in row.examples]
    all_of_it = [example.input_ids.tolist() for batch in whole.batches for row in batch for example in row.examples]
    assert kept == all_of_it[: len(kept)]


def by_tokens(vocabulary) -> dict[tuple[int, ...], int]:
    return {tuple(tokens): row + 1 for row, tokens in enumerate(vocabulary.item_tokens.tolist())}


def test_the_plan_follows_the_seed_and_shuffles_every_epoch_anew(tmp_path):
    def flat(seed):
        plan = Recommendation(options(epochs=2), max_history=5).plan(world(tmp_path, seed=seed))
        return [[e.input_ids.tolist() for row in batch for e in row.examples] for batch in plan.batches]

    assert flat(1) == flat(1) != flat(2)
    half = len(flat(1)) // 2
    assert flat(1)[:half] != flat(1)[half:]


def test_a_determined_world_is_learnt(tmp_path):
    context = world(tmp_path)
    assert recall(context) < 0.7, "not known beforehand"
    words = context.model.get_input_embeddings().text.weight.clone()
    [row] = run_stages([Recommendation(LEARNT, max_history=5)], context)
    assert recall(context) > 0.95
    assert row["best_score"] > 0.95 and row["loss"] < 0.5
    assert torch.equal(context.model.get_input_embeddings().text.weight, words), "words stay as they were"
    assert not (tmp_path / "recommendation" / "checkpoints").exists()
    again = world(tmp_path)
    [row] = run_stages([Recommendation(LEARNT, max_history=5)], again)
    assert row["skipped"] and recall(again) > 0.95


def test_the_weights_validation_liked_best_are_kept_and_not_the_last(tmp_path):
    scores = iter([0.1, 0.9, 0.2])
    seen = []

    def validate(*_):
        seen.append({name: value.detach().clone() for name, value in context.model.named_parameters()})
        assert not context.model.training
        return next(scores)

    context = world(tmp_path, validate)
    [row] = run_stages([Recommendation(options(epochs=2), max_history=5)], context)
    assert row["best_score"] == 0.9 and len(seen) == 3
    for name, value in context.model.named_parameters():
        assert torch.equal(value, seen[1][name])
    assert any(not torch.equal(seen[1][name], seen[2][name]) for name in seen[1])


def test_validations_are_asked_for_the_users_wanted_and_the_last_is_after_the_last_step(tmp_path):
    asked = []

    def validate(users, think):
        asked.append(users)
        return 0.0

    context = world(tmp_path, validate)
    logged = []
    context.scalar = lambda name, value, step: logged.append((name, step))
    [row] = run_stages([Recommendation(options(epochs=2, validations=4, valid_users=7), max_history=5)], context)
    assert asked == [7] * 4
    steps = [step for name, step in logged if name.endswith("valid")]
    assert steps[-1] == row["steps"] and len(steps) == 4
    assert np.ptp(np.diff([0, *steps])) <= 1, "evenly spaced"


def count_steps(monkeypatch):
    done = []

    @functools.wraps(token_loss)
    def counted(*args):
        done.append(1)
        return token_loss(*args)

    monkeypatch.setattr(training, "token_loss", counted)
    return done


@pytest.mark.parametrize("cut_off_at", [2, 3])
def test_an_interrupted_run_goes_on_to_the_same_weights(cut_off_at, tmp_path, monkeypatch):
    wanted = options(epochs=3, validations=4, checkpoints=3, dropout=0.1)
    whole = world(tmp_path / "whole")
    [row] = run_stages([Recommendation(wanted, max_history=5)], whole)

    calls = []

    def cut_off(*_):
        calls.append(1)
        if len(calls) == cut_off_at:
            raise KeyboardInterrupt
        return recall(broken)

    broken = world(tmp_path / "resumed", cut_off)
    with pytest.raises(KeyboardInterrupt):
        run_stages([Recommendation(wanted, max_history=5)], broken)
    assert last_checkpoint(tmp_path / "resumed" / "recommendation")

    resumed = world(tmp_path / "resumed")
    done = count_steps(monkeypatch)
    [row_resumed] = run_stages([Recommendation(wanted, max_history=5)], resumed)
    assert 0 < len(done) < row["steps"], "it went on from a checkpoint"
    weights = dict(whole.model.named_parameters())
    for name, value in resumed.model.named_parameters():
        assert torch.equal(value, weights[name]), name
    assert row_resumed["best_score"] == row["best_score"] and row_resumed["loss"] == row["loss"]


def test_the_same_seed_trains_the_same_weights_and_another_others(tmp_path):
    def trained(name, seed):
        context = world(tmp_path / name, lambda users, think: 0.5, seed=5)
        context.seed = seed
        run_stages([Recommendation(options(epochs=1, dropout=0.1), max_history=5)], context)
        return context.model.get_input_embeddings().rows.detach()

    first, again, other = trained("a", 1), trained("b", 1), trained("c", 2)
    assert torch.equal(first, again) and not torch.equal(first, other)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_language_model_multiplies_in_the_precision_asked_for_and_keeps_float32_weights(
    precision, tmp_path, monkeypatch
):
    monkeypatch.setattr("recbole_think.stages.precision._speed_ratio", lambda *_: 1.0)  # a machine that has bfloat16
    context = world(tmp_path)
    seen, scored = set(), set()
    product = context.model.get_decoder().layers[0].mlp.down_proj
    product.register_forward_hook(lambda module, _, out: seen.add(out.dtype) if torch.is_grad_enabled() else None)
    head = context.model.get_output_embeddings()
    real = head.code_logits
    head.code_logits = lambda *args: scored.add((found := real(*args)).dtype) or found
    [row] = run_stages([Recommendation(options(epochs=2, precision=precision), max_history=5)], context)
    assert seen == {getattr(torch, precision)}
    assert scored == {torch.float32}, "logits and their softmax are float32 in any case"
    assert math.isfinite(row["loss"]) and row["loss"] < math.log(4) + 0.1
    assert {value.dtype for value in context.model.parameters()} == {torch.float32}


def test_the_stage_prints_nothing_to_standard_output(tmp_path, capsys):
    context = world(tmp_path, lambda users, think: 0.5)
    for shown in (False, True):
        context.folder, context.show_progress = tmp_path / str(shown), shown
        run_stages([Recommendation(options(epochs=1), max_history=5)], context)
    assert capsys.readouterr().out == "", "standard output belongs to the result (--json)"


def test_a_loss_that_is_no_number_stops_with_the_stage_and_the_step(tmp_path):
    context = world(tmp_path)
    with torch.no_grad():
        context.model.get_decoder().norm.weight.fill_(math.nan)
    with pytest.raises(FloatingPointError, match=r"stage recommendation, step 0\b.*nan"):
        run_stages([Recommendation(options(), max_history=5)], context)
    assert not (tmp_path / "recommendation" / "facts.json").exists()


def test_a_loss_that_breaks_later_names_its_step_and_keeps_the_last_checkpoint(tmp_path, monkeypatch):
    done = count_steps(monkeypatch)
    real = training.token_loss
    monkeypatch.setattr(training, "token_loss", lambda *args: real(*args) * (math.nan if len(done) == 6 else 1))
    with pytest.raises(FloatingPointError, match="step 5"):
        run_stages([Recommendation(options(epochs=4, checkpoints=10), max_history=5)], world(tmp_path))
    assert last_checkpoint(tmp_path / "recommendation")


@pytest.mark.slow
def test_gradient_checkpointing_computes_layers_again_and_ends_with_the_same_weights(tmp_path):
    ended, calls = {}, {}
    for wanted in (False, True):
        context = world(tmp_path / str(wanted))
        mlp, counted = context.model.get_decoder().layers[0].mlp, []

        def count(part, _, counted=counted):
            counted.extend([1] * part.training)

        hook = mlp.register_forward_pre_hook(count)
        run_stages([Recommendation(options(gradient_checkpointing=wanted), max_history=5)], context)
        hook.remove()
        ended[wanted], calls[wanted] = dict(context.model.named_parameters()), len(counted)
        assert not context.model.is_gradient_checkpointing, "the model is left as it was"
    assert calls[True] == 2 * calls[False] > 0
    for name, value in ended[False].items():
        torch.testing.assert_close(ended[True][name], value, msg=name)


def test_a_validation_that_finds_no_numbers_names_its_stage_and_step(tmp_path):
    def no_numbers(users, think):
        raise FloatingPointError("NaN while decoding")

    with pytest.raises(FloatingPointError, match=r"stage recommendation, step \d+: NaN while decoding; the last good"):
        run_stages([Recommendation(options(), max_history=5)], world(tmp_path, no_numbers))


def test_histories_without_a_single_transition_are_an_input_error(tmp_path):
    context = world(tmp_path)
    context.histories = from_pairs(np.array([1, 2, 3]), np.array([1, 2, 3]), 4)
    with pytest.raises(InputError):
        run_stages([Recommendation(options(), max_history=5)], context)


@pytest.mark.parametrize(
    "wrong",
    [
        {"epochs": 0}, {"learning_rate": 0.0}, {"learning_rate": math.nan}, {"warmup": 1.0}, {"warmup": -0.1},
        {"tokens_per_batch": 0}, {"row_tokens": 0}, {"dropout": 1.0}, {"validations": 0}, {"valid_users": -1},
        {"checkpoints": -1}, {"precision": "float16"}, {"row_learning_rate": -1.0}, {"weight_decay": -0.5},
        {"max_grad_norm": -1.0}, {"tokens": -1}, {"lora_rank": -1},
    ],
    ids=str,
)  # fmt: skip
def test_options_that_make_no_sense_are_refused_by_name(wrong):
    with pytest.raises(InputError, match=f"recommendation.{next(iter(wrong))}"):
        options(**wrong)
