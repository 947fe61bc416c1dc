"""Prompts that go on from what was read of others read the same as whole ones."""

import numpy as np
import pytest
import torch

from recbole_think.decoding.kept import keep
from recbole_think.decoding.packed import PackedReader
from recbole_think.prompts.batching import prompt_batch
from tests.small import FAMILIES, WORDS, backbone_of

DICE = np.random.default_rng(5)
LONG, SHORT, OTHER = (DICE.integers(1, WORDS, length) for length in (12, 5, 9))


def read(reader, prompts):
    hidden, at = reader.prompts(*prompt_batch(prompts, 0))
    return hidden, at, [keep(prompt, at.parts, row) for row, prompt in enumerate(prompts)]


def stepped(reader, at, rows):
    """Hidden states two tokens further, down two branches of each prompt."""
    _, at = reader.step(at, torch.tensor([[3, 9]] * rows), torch.zeros(rows, 2, dtype=torch.int64))
    return reader.step(at, torch.tensor([[4, 5]] * rows), torch.tensor([[1, 0]] * rows))[0]


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES)
def test_a_prompt_read_in_two_parts_is_read_as_one(family):
    reader = PackedReader(backbone_of(family, WORDS))
    whole = [LONG, SHORT, OTHER]
    hidden, at, _ = read(reader, whole)
    _, _, kept = read(reader, [LONG[:7], OTHER[:8]])
    again, place = reader.resume([kept[0], None, kept[1]], whole)
    torch.testing.assert_close(again, hidden, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(stepped(reader, place, 3), stepped(reader, at, 3), atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_what_is_kept_of_a_prompt_read_in_two_parts_is_what_is_kept_of_it_read_as_one():
    reader = PackedReader(backbone_of("llama", WORDS))
    [whole] = read(reader, [LONG])[2]
    [first] = read(reader, [LONG[:4]])[2]
    _, at = reader.resume([first], [LONG[:9]])
    second = keep(LONG[:9], at.parts, 0)
    _, at = reader.resume([second], [LONG])
    third = keep(LONG, at.parts, 0)
    for got, wanted in zip(third.layers, whole.layers, strict=True):
        torch.testing.assert_close(got, wanted, atol=1e-5, rtol=1e-4)
    assert third.nbytes == whole.nbytes == LONG.nbytes + 3 * 2 * (2 * len(LONG) * 8) * 4  # layers, kinds, heads, width


@torch.no_grad()
def test_only_the_common_beginning_of_two_prompts_is_taken_over():
    reader = PackedReader(backbone_of("llama", WORDS))
    other = np.concatenate([LONG[:6], (LONG[6:8] % (WORDS - 1)) + 1, LONG[8:]])
    assert (other[6] != LONG[6]) and (other[8:] == LONG[8:]).all()
    [kept] = read(reader, [LONG])[2]
    assert kept.shared_with(other) == 6
    assert kept.shared_with(LONG) == len(LONG) - 1, "somebody has to look from its end"
    assert kept.shared_with(LONG[:5]) == 4 and kept.shared_with(np.append(LONG, 7)) == len(LONG)
    again, _ = reader.resume([kept], [other])
    torch.testing.assert_close(again, read(reader, [other])[0], atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_a_kept_prompt_is_its_own_whatever_the_others_of_its_batch_were():
    reader = PackedReader(backbone_of("llama", WORDS))
    [_, kept, _] = read(reader, [LONG, SHORT, OTHER])[2]
    [alone] = read(reader, [SHORT])[2]
    for got, wanted in zip(kept.layers, alone.layers, strict=True):
        assert got[0].shape == wanted[0].shape
        torch.testing.assert_close(got, wanted, atol=1e-5, rtol=1e-4)
