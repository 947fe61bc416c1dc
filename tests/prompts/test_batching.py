import itertools

import numpy as np
import pytest
import torch

from recbole_think.prompts.batching import IGNORED, Row, packed_batch, packed_rows, prompt_batch, token_batches
from recbole_think.prompts.tasks import Example
from tests.small import plain_qwen

PAD = 7


@pytest.mark.parametrize("budget", [1, 10, 33, 64, 1000])
@pytest.mark.parametrize("seed", range(4))
def test_every_sequence_is_in_one_batch_and_no_padded_batch_exceeds_the_budget(budget, seed):
    lengths = np.random.default_rng(seed).integers(1, 40, 60).tolist()
    batches = token_batches(lengths, budget)
    assert sorted(index for batch in batches for index in batch) == list(range(60))
    for batch in batches:
        padded = max(lengths[index] for index in batch) * len(batch)
        assert padded <= budget or len(batch) == 1


def test_batches_are_filled_before_another_is_begun():
    lengths = np.random.default_rng(0).integers(1, 40, 60).tolist()
    batches = token_batches(lengths, 100)
    for batch, following in itertools.pairwise(batches):
        assert lengths[following[0]] * (len(batch) + 1) > 100


def test_a_batch_of_exactly_the_budget_is_allowed():
    assert token_batches([5, 5, 5, 5], 10) == [[0, 1], [2, 3]]


def test_equal_lengths_keep_the_callers_order():
    assert token_batches([3, 2, 3, 2, 3], 1000) == [[1, 3, 0, 2, 4]]


def test_nothing_makes_no_batches():
    assert token_batches([], 10) == []


class Sized(Example):
    """An example that is only equal to itself."""

    __eq__ = object.__eq__
    __hash__ = object.__hash__


def of_length(tokens: int) -> Example:
    return Sized(np.arange(tokens), np.zeros(tokens, dtype=bool))


@pytest.mark.parametrize("longest", [12, 20, 45])
@pytest.mark.parametrize("seed", range(4))
def test_rows_hold_every_example_once_in_order_and_the_prefix_is_counted_once(longest, seed):
    shared = 5
    examples = [of_length(n) for n in shared + np.random.default_rng(seed).integers(1, 20, 50)]
    rows = packed_rows(examples, shared, longest)
    assert [example for row in rows for example in row.examples] == examples
    for row in rows:
        assert row.tokens == shared + sum(len(example.input_ids) - shared for example in row.examples)
        assert row.tokens <= longest or len(row.examples) == 1
    for row, following in itertools.pairwise(rows):
        assert row.tokens + len(following.examples[0].input_ids) - shared > longest, "filled before another is begun"


def test_a_row_of_exactly_the_longest_is_allowed():
    a, b, c = (of_length(n) for n in (7, 8, 6))
    assert [row.examples for row in packed_rows([a, b, c], 5, 10)] == [[a, b], [c]]
    assert packed_rows([], 5, 10) == []


PREFIX = [11, 12, 13]


def example(body, supervised):
    return Example(np.array([*PREFIX, *body]), np.array([False] * len(PREFIX) + supervised))


A = example([21, 22, 23, 24], [False, False, True, True])
B = example([31, 32], [False, True])
C = example([41, 42, 43], [False, True, True])


def test_a_packed_row_reads_the_prefix_once_and_every_body_from_the_same_position():
    batch = packed_batch([Row((A, B), 3), Row((C,), 3)], PAD)
    assert batch["input_ids"].tolist() == [
        [11, 12, 13, 21, 22, 23, 24, 31, 32],
        [11, 12, 13, 41, 42, 43, PAD, PAD, PAD],
    ]
    assert batch["position_ids"][0].tolist() == [0, 1, 2, 3, 4, 5, 6, 3, 4]
    assert batch["position_ids"][1, :6].tolist() == [0, 1, 2, 3, 4, 5]


def test_labels_stand_where_they_are_predicted_and_padding_is_not_learnt():
    batch = packed_batch([Row((A, B), 3), Row((C,), 3)], PAD)
    none = IGNORED
    assert batch["labels"].tolist() == [
        [none, none, none, none, 23, 24, none, 32, none],
        [none, none, none, 42, 43, none, none, none, none],
    ]


def test_rows_of_different_tasks_have_prefixes_of_their_own():
    other = Example(np.array([51, 52, 53]), np.array([False, True, True]), plain=True)
    batch = packed_batch([Row((A, B), len(PREFIX)), Row((other, other))], PAD)
    assert batch["input_ids"][1].tolist() == [51, 52, 53, 51, 52, 53, PAD, PAD, PAD]
    assert batch["position_ids"][1, :6].tolist() == [0, 1, 2, 0, 1, 2]
    assert batch["labels"][1].tolist() == [52, 53, IGNORED, 52, 53] + [IGNORED] * 4
    learnt = batch["labels"] != IGNORED
    assert not batch["plain"][0].any() and batch["plain"][1].equal(learnt[1])
    seen = batch["attention_mask"][1, 0] == 0
    assert not seen[3:6, :3].any() and not seen[0, 1:].any()


def test_no_example_sees_another_and_none_sees_what_comes_later():
    batch = packed_batch([Row((A, B), 3), Row((C,), 3)], PAD)
    seen = batch["attention_mask"] == 0
    assert seen.shape == (2, 1, 9, 9)
    owner = [["prefix"] * 3 + ["A"] * 4 + ["B"] * 2, ["prefix"] * 3 + ["C"] * 3 + ["padding"] * 3]
    for row, owners in enumerate(owner):
        for reader in range(9):
            if owners[reader] == "padding":
                assert seen[row, 0, reader].any(), "a row of nothing but -inf would be NaN"
                continue
            wanted = [at <= reader and owners[at] in ("prefix", owners[reader]) for at in range(9)]
            assert seen[row, 0, reader].tolist() == wanted


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@torch.no_grad()
def test_a_packed_example_is_understood_as_it_is_alone(attention):
    model = plain_qwen(50, attention=attention)
    rows = [[A, B], [C], [B, C, A]]
    batch = packed_batch([Row(row, len(PREFIX)) for row in rows], PAD)
    hidden = model.get_decoder()(
        input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], position_ids=batch["position_ids"]
    ).last_hidden_state
    for number, row in enumerate(rows):
        begin = len(PREFIX)
        for one in row:
            alone = model.get_decoder()(input_ids=torch.from_numpy(one.input_ids)[None]).last_hidden_state[0]
            body = alone[len(PREFIX) :]
            torch.testing.assert_close(hidden[number, begin : begin + len(body)], body, atol=1e-5, rtol=1e-5)
            begin += len(body)
    assert hidden.isfinite().all()


def test_prompts_are_padded_on_the_left():
    ids, mask = prompt_batch([np.array([1, 2, 3]), np.array([4])], PAD)
    assert ids.tolist() == [[1, 2, 3], [PAD, PAD, 4]]
    assert mask.tolist() == [[1, 1, 1], [0, 0, 1]]
    assert ids.dtype == mask.dtype == torch.int64
