"""Dropout by the byte: the asked share is dropped, the expectation stays, a seed repeats."""

import pytest
import torch

from recbole_think.stages.dropout import dropout

MANY = 200_000


@pytest.mark.parametrize("rate", [0.1, 0.2, 0.5, 0.9])
def test_the_asked_share_is_dropped_and_the_mean_stays(rate):
    torch.manual_seed(0)
    found = dropout(torch.ones(MANY), rate)
    dropped = round(rate * 256) / 256
    assert abs(dropped - rate) <= 1 / 512
    assert float((found == 0).float().mean()) == pytest.approx(dropped, abs=0.005)  # 5 standard errors or more
    assert float(found.mean()) == pytest.approx(1, abs=0.035)
    assert found.unique().tolist() == pytest.approx([0, 1 / (1 - dropped)])


def test_every_feature_is_dropped_for_itself():
    torch.manual_seed(0)
    kept = dropout(torch.ones(MANY // 8, 8), 0.5) > 0  # the eight features of one draw side by side
    centred = kept.double() - 0.5
    together = centred.T @ centred / len(kept)
    torch.testing.assert_close(together, 0.25 * torch.eye(8, dtype=torch.float64), atol=0.01, rtol=0)


def test_gradients_pass_where_values_did():
    torch.manual_seed(0)
    values = torch.full((3, 5, 7), 2.0, requires_grad=True)
    found = dropout(values, 0.5)
    found.sum().backward()
    assert torch.equal(values.grad, found.detach() / 2)


def test_a_seed_repeats_and_the_next_draw_differs():
    def drawn(seed):
        torch.manual_seed(seed)
        return dropout(torch.ones(100), 0.5), dropout(torch.ones(100), 0.5)

    (one, next_), (again, _), (other, _) = drawn(1), drawn(1), drawn(2)
    assert torch.equal(one, again) and not torch.equal(one, next_) and not torch.equal(one, other)


@pytest.mark.parametrize(("rate", "training"), [(0.0, True), (0.001, True), (0.5, False)])
def test_nothing_is_dropped_at_rate_zero_or_while_scoring(rate, training):
    values = torch.randn(9)
    assert dropout(values, rate, training) is values


def test_everything_is_dropped_at_rate_one():
    assert dropout(torch.ones(9), 1.0).tolist() == [0] * 9


def test_a_compiled_function_drops_the_very_same_and_goes_back_through_what_it_kept():
    def twice(values):
        return dropout(torch.relu(dropout(values * 3, 0.3)), 0.3)

    values = torch.rand(7, 65, 32).add_(0.1).requires_grad_()
    found = []
    for function in (twice, torch.compile(twice, dynamic=True)):
        torch.manual_seed(3)
        kept = function(values)
        (slopes,) = torch.autograd.grad(kept.sum(), values)
        assert torch.equal(kept != 0, slopes != 0)
        found.append(kept.detach())
    torch.testing.assert_close(*found)
    assert abs(float((found[0] == 0).float().mean()) - (1 - (1 - 77 / 256) ** 2)) < 0.02, "two masks, not one twice"
