import logging

import numpy as np
import pytest
import torch

from recbole_think.prompts.batching import Row, packed_batch
from recbole_think.prompts.tasks import Example
from recbole_think.stages import compiling
from recbole_think.stages.adapters import adapted
from recbole_think.stages.compiling import compiled, worth_it
from recbole_think.stages.loss import token_loss
from recbole_think.stages.training import freeze_words
from tests.small import distinct_codes, taught

SIZES = (4, 8)


@pytest.fixture
def model():
    made, _ = taught(distinct_codes(20, SIZES), SIZES)
    freeze_words(made)
    return made


def test_auto_compiles_long_stages_alone(model, monkeypatch):
    weights = sum(value.numel() for name, value in model.named_parameters() if ".layers." in name)
    monkeypatch.setattr(compiling, "WORTH_IT", 6 * weights * 1000)
    assert [worth_it("auto", model, tokens) for tokens in (999, 1000)] == [False, True]
    assert worth_it("always", model, 1) and not worth_it("never", model, 10**12)


def test_without_a_compiler_training_goes_on_with_one_line_said(model, monkeypatch, caplog):
    def missing(_):
        raise RuntimeError("No working C++ compiler found\nand a long story")

    monkeypatch.setattr(torch, "compile", missing)
    with caplog.at_level(logging.WARNING), compiled(model, True) as eager:
        assert eager(len) is len
        assert all(layer._compiled_call_impl is None for layer in model.get_decoder().layers)
    [said] = caplog.messages
    assert "No working C++ compiler found" in said and "story" not in said


def test_nothing_is_tried_where_nothing_is_wanted(model, monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda _: pytest.fail("compiled"))
    with compiled(model, False) as eager:
        assert eager(len) is len


def test_the_model_is_left_as_it_was_after_a_failure_too(model, monkeypatch):
    monkeypatch.setattr(compiling, "_can_compile", lambda _: True)
    with pytest.raises(KeyboardInterrupt), compiled(model, True):
        assert all(layer._compiled_call_impl is not None for layer in model.get_decoder().layers)
        raise KeyboardInterrupt
    assert all(layer._compiled_call_impl is None for layer in model.get_decoder().layers)


def step(model, rows: int, tokens: int):
    """Loss and gradients of one step on random text."""
    dice = np.random.default_rng(tokens)
    examples = [Example(dice.integers(3, 60, tokens), np.arange(tokens) > 0, plain=True) for _ in range(rows)]
    model.zero_grad()
    loss = token_loss(model, packed_batch([Row([one]) for one in examples], 0), [], 0.0)
    loss.backward()
    return loss.detach(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 2])
def test_compiled_layers_give_the_same_loss_and_gradients(model, rank):
    assert compiling._can_compile(torch.device("cpu")), "this test needs a C++ compiler and Python's headers"
    shapes = [(3, 20), (2, 33), (1, 7)]
    with adapted(model, rank):
        wanted = [step(model, *shape) for shape in shapes]
        with compiled(model, True) as eager:
            found = [step(model, *shape) for shape in shapes]
            calls = eager(lambda: torch._dynamo.utils.counters["stats"]["unique_graphs"])
            before = calls()
            assert eager(lambda: float(step(model, 5, 50)[0]))() > 0
            assert calls() == before, "what runs uncompiled compiles nothing"
        for (loss, gradients), (other, expected) in zip(found, wanted, strict=True):
            torch.testing.assert_close(loss, other, atol=1e-5, rtol=1e-5)
            assert gradients.keys() == expected.keys()
            torch.testing.assert_close(gradients, expected, atol=1e-5, rtol=1e-4)
