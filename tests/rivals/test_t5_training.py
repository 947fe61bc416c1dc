"""A T5 read for training gives what transformers' own forward gives, gradients and places of dropout included."""

import pytest
import torch
from torch.nn import functional
from transformers import T5Config, T5ForConditionalGeneration

from recbole_think.rivals import t5_training
from recbole_think.rivals.t5 import ready
from recbole_think.rivals.t5_training import hidden_states

PAD = 0
EVEN = torch.tensor([[5, 9, 2, 7], [3, 3, 8, 1]])
PADDED = torch.tensor([[5, 9, 2, 7, 4], [0, 0, 3, 3, 8], [6, 0, 0, 0, 0]])
ANSWERS = torch.tensor([[0, 4, 6], [0, 9, 9], [0, 1, 2]])


@pytest.fixture
def model():
    torch.manual_seed(1)
    sizes = {"d_model": 16, "d_kv": 8, "d_ff": 24, "num_heads": 3, "num_layers": 2, "num_decoder_layers": 3}
    made = T5ForConditionalGeneration._from_config(
        T5Config(vocab_size=11, dropout_rate=0.25, pad_token_id=PAD, eos_token_id=None, use_cache=False, **sizes),
        attn_implementation="eager",  # the only way whose dropout can be seen from outside
    )
    for value in made.parameters():
        value.data += 0.3 * torch.randn_like(value)
    return made


def plainly(model, prompts, answers):
    mask = (prompts != PAD).long()
    encoded = model.encoder(input_ids=prompts, attention_mask=mask).last_hidden_state
    decoded = model.decoder(input_ids=answers, encoder_hidden_states=encoded, encoder_attention_mask=mask)
    return ready(model, decoded.last_hidden_state)


@pytest.mark.parametrize("prompts", [EVEN, PADDED, PADDED.flip(1)], ids=["even", "padded before", "padded behind"])
def test_states_and_gradients_are_those_of_transformers(model, prompts):
    model.eval()
    answers, learning = ANSWERS[: len(prompts)], list(model.parameters())
    both = [hidden_states(model, prompts, PAD, answers), plainly(model, prompts, answers)]
    torch.testing.assert_close(*both, atol=1e-5, rtol=1e-4)
    weights = torch.randn(both[0].shape)
    mine, theirs = (torch.autograd.grad((state * weights).sum(), learning, allow_unused=True) for state in both)
    for one, other in zip(mine, theirs, strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-3)


def test_dropout_falls_where_theirs_does(model, monkeypatch):
    model.train()
    places = {"mine": [], "theirs": []}

    def mine(values, rate, training):
        places["mine"].append((tuple(values.shape), rate, training))
        return values

    def theirs(values, p, training, inplace=False):
        places["theirs"].append((tuple(values.shape), p, training))
        return values

    monkeypatch.setattr(t5_training, "dropout", mine)
    hidden_states(model, PADDED, PAD, ANSWERS)
    monkeypatch.setattr(functional, "dropout", theirs)
    plainly(model, PADDED, ANSWERS)
    assert places["mine"] == places["theirs"] and len(places["mine"]) == 4 + 4 * 2 + 6 * 3


def test_nothing_is_dropped_when_it_does_not_train(model):
    model.eval()
    first = hidden_states(model, PADDED, PAD, ANSWERS)
    assert torch.equal(first, hidden_states(model, PADDED, PAD, ANSWERS))
    model.train()
    assert not torch.equal(first, hidden_states(model, PADDED, PAD, ANSWERS))


def test_in_bfloat16_it_is_as_near_to_the_exact_states_as_theirs(model):
    model.eval()
    exact = plainly(model, PADDED, ANSWERS)
    with torch.autocast("cpu", torch.bfloat16):
        mine, theirs = hidden_states(model, PADDED, PAD, ANSWERS), plainly(model, PADDED, ANSWERS)
    assert (mine - exact).norm() < 1.5 * (theirs - exact).norm()


def test_what_is_padded_changes_nothing_for_the_others(model):
    model.eval()
    together = hidden_states(model, PADDED, PAD, ANSWERS)
    alone = hidden_states(model, PADDED[1:2, 2:], PAD, ANSWERS[1:2])
    torch.testing.assert_close(together[1:2], alone, atol=1e-5, rtol=1e-4)
