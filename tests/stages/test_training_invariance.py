"""However a training step is laid out, it is the same step: the same loss and the same gradients."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from recbole_think.prompts.batching import IGNORED, Row, packed_batch
from recbole_think.prompts.tasks import Example, recommendation_example, recommendation_frame
from recbole_think.stages import cross_entropy
from recbole_think.stages.loss import token_loss
from recbole_think.stages.training import freeze_words
from tests.small import distinct_codes, taught

SIZES = (4, 8)
TABLE = distinct_codes(20, SIZES, seed=1)
WINDOWS = [[1, 2, 3], [9, 2, 9, 7], [3, 20], [8, 6, 11, 12, 1]]


@pytest.fixture(params=["eager", "sdpa"])
def world(request, monkeypatch):
    """The tiny backbone, four texts and four histories of it."""
    monkeypatch.setattr(cross_entropy, "CHUNK", 16)  # so that there are several
    model, vocabulary = taught(TABLE, SIZES, seed=5)
    model.set_attn_implementation(request.param)
    freeze_words(model)
    dice = np.random.default_rng(0)
    texts = [text(dice.integers(3, vocabulary.first + sum(SIZES), tokens)) for tokens in (9, 30, 2, 17)]
    frame = recommendation_frame(vocabulary.tokenizer)
    histories = [recommendation_example(frame, vocabulary, np.array(window)) for window in WINDOWS]
    return model, vocabulary, len(frame), texts, histories


def text(ids) -> Example:
    return Example(ids, np.arange(len(ids)) > 0, plain=True)


def measured(world, batches: list[list[Row]], dtype=None):
    """Loss per supervised token over all batches, and the gradients of what learns."""
    model, vocabulary = world[:2]
    made = [packed_batch(rows, vocabulary.tokenizer.pad_token_id) for rows in batches]
    counts = [int((batch["labels"] != IGNORED).sum()) for batch in made]
    model.zero_grad()
    total = 0.0
    for batch, count in zip(made, counts, strict=True):
        with torch.autocast("cpu", dtype or torch.bfloat16, enabled=dtype is not None):
            loss = token_loss(model, batch, vocabulary.code_tokens, 0.0) * count / sum(counts)
        loss.backward()
        total += float(loss.detach())
    return total, {name: value.grad.clone() for name, value in model.named_parameters() if value.grad is not None}


def alone(world) -> list[list[Row]]:
    """Eight batches of one example."""
    _, _, shared, texts, histories = world
    return [[Row([one])] for one in texts] + [[Row([one], shared)] for one in histories]


def test_eight_examples_packed_are_eight_examples_alone(world):
    _, _, shared, texts, histories = world
    packed = [Row(texts[:3]), Row(histories[:2], shared), Row(texts[3:]), Row(histories[2:], shared)]
    loss, gradients = measured(world, [packed])
    wanted, expected = measured(world, alone(world))
    assert loss == pytest.approx(wanted, abs=1e-5)
    assert gradients.keys() == expected.keys() and "model.embed_tokens.text.weight" not in gradients
    for name, value in gradients.items():
        torch.testing.assert_close(value, expected[name], atol=1e-5, rtol=1e-4)


def test_one_batch_of_eight_rows_is_eight_batches_of_one(world):
    loss, gradients = measured(world, [[row for batch in alone(world) for row in batch]])
    wanted, expected = measured(world, alone(world))
    assert loss == pytest.approx(wanted, abs=1e-5)
    for name, value in gradients.items():
        torch.testing.assert_close(value, expected[name], atol=1e-5, rtol=1e-4)


def test_in_bfloat16_packing_changes_no_more_than_rounding_does(world):
    _, _, shared, texts, histories = world
    loss, gradients = measured(world, [[Row(texts), Row(histories, shared)]], torch.bfloat16)
    wanted, expected = measured(world, alone(world))
    assert loss == pytest.approx(wanted, rel=1e-2)
    for name, value in gradients.items():
        assert (value - expected[name]).norm() < 0.05 * expected[name].norm(), name


def test_the_step_is_that_of_the_plain_model_and_a_plain_softmax(world):
    """Transformers' own forward of each text by itself, without packing, chunks or code-only logits."""
    model, _, _, texts, _ = world
    _, gradients = measured(world, [[Row(texts)]])
    model.zero_grad()
    count = sum(int(one.supervised.sum()) for one in texts)
    for one in texts:
        ids = torch.from_numpy(one.input_ids)[None]
        logits = model(ids).logits[0, :-1]
        (functional.cross_entropy(logits, ids[0, 1:], reduction="sum") / count).backward()
    for name, value in gradients.items():
        torch.testing.assert_close(value, dict(model.named_parameters())[name].grad, atol=1e-5, rtol=1e-4)
