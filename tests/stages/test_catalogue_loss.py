"""The chunked loss is the plain one: number, gradients, whatever the chunks."""

import pytest
import torch
from torch.nn import functional

from recbole_think.stages import cross_entropy
from recbole_think.stages.cross_entropy import catalogue_loss

POSITIONS, SIZE, ITEMS = 37, 8, 50


@pytest.fixture
def given():
    """Hidden states, an item table and targets; scores of up to a few dozens, so that a softmax is far from even."""
    dice = torch.Generator().manual_seed(0)
    hidden = 3 * torch.randn(POSITIONS, SIZE, generator=dice)
    table = 3 * torch.randn(ITEMS, SIZE, generator=dice)
    return hidden.requires_grad_(), table.requires_grad_(), torch.randint(1, ITEMS, (POSITIONS,), generator=dice)


@pytest.mark.parametrize("chunk", [1, 5, POSITIONS, 1000])
def test_it_is_the_plain_loss_with_the_plain_gradients(given, chunk, monkeypatch):
    monkeypatch.setattr(cross_entropy, "CHUNK", chunk)
    hidden, table, targets = given
    plain = functional.cross_entropy(hidden @ table.T, targets)
    ours = catalogue_loss(hidden, table, targets)
    torch.testing.assert_close(ours, plain)
    wanted = torch.autograd.grad(3 * plain, (hidden, table))
    for mine, other in zip(torch.autograd.grad(3 * ours, (hidden, table)), wanted, strict=True):
        torch.testing.assert_close(mine, other, atol=1e-6, rtol=1e-4)


def test_scores_too_large_for_an_exponential_stay_finite(given):
    hidden, table, targets = given
    loss = catalogue_loss(100 * hidden, table, targets)
    loss.backward()
    torch.testing.assert_close(loss, functional.cross_entropy(100 * hidden @ table.T, targets))
    assert hidden.grad.isfinite().all() and table.grad.isfinite().all()


def test_under_autocast_it_stays_in_float32(given):
    hidden, table, targets = given
    with torch.autocast("cpu", torch.bfloat16):
        found = catalogue_loss(hidden, table, targets)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, functional.cross_entropy(hidden @ table.T, targets))


def test_no_more_logits_exist_at_once_than_those_of_a_chunk(monkeypatch):
    held = []
    plain = torch.mm

    def watched(*factors, out):
        held.append(out.shape)
        return plain(*factors, out=out)

    monkeypatch.setattr(torch, "mm", watched)
    catalogue_loss(torch.randn(1000, SIZE), torch.randn(ITEMS, SIZE), torch.ones(1000, dtype=torch.int64))
    assert max(shape[0] for shape in held if shape[1] == ITEMS) <= cross_entropy.CHUNK
