"""Soft labels are a teacher's probabilities gone through the trie: each can be said beforehand."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from recbole_think.prompts.batching import IGNORED, packed_batch, packed_rows
from recbole_think.prompts.soft import Soft, SoftTable, level_shares
from recbole_think.prompts.tasks import recommendation_example, recommendation_frame
from recbole_think.stages.loss import token_loss
from tests.small import taught

SIZES = (2, 3)
CODES = np.array([[0, 0], [0, 1], [0, 2], [1, 0], [1, 1]])  # items 1 to 5
EVENTS = np.array([1, 2, 3, 4, 5, 1])
ITEMS = np.array([[1, 2, 4], [2, 3, 4], [3, 1, 2], [1, 2, 3], [5, 4, 1], [4, 5, 3]])
SHARES = np.array(
    [[0.5, 0.3, 0.2], [0.6, 0.2, 0.1], [0.4, 0.3, 0.3], [0.5, 0.3, 0.2], [0.7, 0.2, 0.1], [0.6, 0.3, 0.1]]
).astype(np.float32)
TABLE = SoftTable(CODES, EVENTS, ITEMS, SHARES, np.ones(len(EVENTS), dtype=np.float32))


def of(row, level):
    soft = Soft(TABLE, slice(row, row + 1))
    parts = (torch.from_numpy(part) for part in (soft.codes, soft.shares, soft.target))
    shares, said = level_shares(*parts, level, SIZES[level])
    return shares[0].tolist(), bool(said)


def test_a_first_code_has_the_share_of_all_items_that_begin_with_it():
    assert of(0, 0) == (pytest.approx([0.8, 0.2]), True)
    assert of(1, 0) == (pytest.approx([0.8 / 0.9, 0.1 / 0.9]), True), "what teachers name sums to 1"


def test_a_later_code_has_its_share_among_the_items_that_begin_as_the_true_one_does():
    assert of(0, 1) == (pytest.approx([0.5 / 0.8, 0.3 / 0.8, 0]), True)
    assert of(4, 1) == (pytest.approx([2 / 9, 7 / 9, 0]), True)
    assert of(3, 1) == ([0, 0, 0], False), "no item teachers name begins as item 4 does"


@pytest.fixture(scope="module")
def world():
    model, vocabulary = taught(CODES, SIZES)
    return model.eval(), vocabulary, recommendation_frame(vocabulary.tokenizer)


def batch(world, *spans, soft=True, weight=1.0):
    _, vocabulary, frame = world
    table = replace(TABLE, weights=np.full(len(EVENTS), weight, dtype=np.float32))
    examples = [
        recommendation_example(
            frame, vocabulary, EVENTS[span], Soft(table, slice(span.start + 1, span.stop)) if soft else None
        )
        for span in spans
    ]
    return packed_batch(packed_rows(examples, len(frame), 64), 0)


def loss(world, weight, *spans, soft=True):
    model, vocabulary, _ = world
    return token_loss(model, batch(world, *spans, soft=soft, weight=weight), vocabulary.code_tokens, 0.0)


SPANS = slice(0, 3), slice(2, 5), slice(4, 6)


def test_every_label_knows_the_item_it_belongs_to(world):
    given = batch(world, *SPANS)
    rows = given["soft_rows"][given["labels"] != IGNORED].tolist()
    assert rows == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    assert given["soft_target"].tolist() == CODES[EVENTS[[1, 2, 3, 4, 5]] - 1].tolist()
    _, vocabulary, _ = world
    labels = given["labels"][given["labels"] != IGNORED].reshape(-1, 2)
    starts = torch.tensor([int(tokens[0]) for tokens in vocabulary.code_tokens])
    assert (labels - starts).tolist() == given["soft_target"].tolist()


def test_without_weight_soft_labels_change_nothing(world):
    torch.testing.assert_close(loss(world, 0.0, *SPANS), loss(world, 0.0, *SPANS, soft=False))


def test_the_loss_is_the_mix_of_both_code_by_code(world):
    model, vocabulary, frame = world
    hard = soft = 0.0
    for span in SPANS:
        for at in range(span.start + 1, span.stop):
            window = EVENTS[span.start : at + 1]
            ids = torch.from_numpy(np.concatenate([frame, vocabulary.item_tokens[window - 1].reshape(-1)]))[None]
            with torch.no_grad():
                logits = model(ids).logits[0, -3:-1]
            for level, tokens in enumerate(vocabulary.code_tokens):
                scores = logits[level, tokens].log_softmax(-1)
                code = CODES[EVENTS[at] - 1, level]
                shares, said = of(at, level)
                hard -= float(scores[code])
                soft -= float((torch.tensor(shares) * scores).sum()) if said else float(scores[code])
    count = 2 * 5
    for weight in (0.0, 0.3, 1.0):
        wanted = ((1 - weight) * hard + weight * soft) / count
        assert float(loss(world, weight, *SPANS)) == pytest.approx(wanted, rel=1e-4)


def test_a_batch_may_hold_sequences_with_and_without_soft_labels(world):
    _, vocabulary, frame = world
    with_soft, without = (
        recommendation_example(frame, vocabulary, EVENTS[:3], soft) for soft in (Soft(TABLE, slice(1, 3)), None)
    )
    mixed = packed_batch(packed_rows([without, with_soft], len(frame), 64), 0)
    assert mixed["soft_rows"][mixed["labels"] != IGNORED].tolist() == [-1, -1, -1, -1, 0, 0, 1, 1]
    model = world[0]
    found = token_loss(model, mixed, vocabulary.code_tokens, 0.0)
    apart = (loss(world, 1.0, slice(0, 3)) + loss(world, 1.0, slice(0, 3), soft=False)) / 2
    torch.testing.assert_close(found, apart)
