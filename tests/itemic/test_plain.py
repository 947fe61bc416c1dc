"""Tables are joined and parted without a number changing, whatever the backbone does with its rows."""

import copy

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, GemmaConfig, LlamaConfig, Qwen2Config, Qwen3Config

from recbole_think.errors import InputError
from recbole_think.itemic.backbone import tiny
from recbole_think.itemic.codes import Codes
from recbole_think.itemic.plain import joined, known_vocabulary, parted, read_plain, write_plain
from recbole_think.itemic.vocabulary import extend_tokenizer, teach_vocabulary

CODES = Codes(np.array([[0, 1], [1, 0], [1, 2], [0, 2]]), (2, 3))
TEXTS = ["red shoes", "blue shoes", "green hat", "red hat"]
SIZES = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
         "num_key_value_heads": 1, "head_dim": 8}  # fmt: skip
FAMILIES = {"llama": LlamaConfig, "qwen2": Qwen2Config, "qwen3": Qwen3Config, "gemma": GemmaConfig}


@pytest.fixture(params=[(family, tied) for family in FAMILIES for tied in (True, False)], ids=str)
def taught(request):
    """A backbone with ten rows more than it has tokens, that knows the codes."""
    family, tied = request.param
    _, tokenizer = tiny(TEXTS, 0)
    torch.manual_seed(5)
    config = FAMILIES[family](vocab_size=len(tokenizer) + 10, tie_word_embeddings=tied, **SIZES)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    vocabulary = extend_tokenizer(tokenizer, CODES)
    teach_vocabulary(model, vocabulary, CODES, TEXTS)
    for value in model.parameters():
        value.data += 0.1 * torch.randn_like(value)
    return model, vocabulary


def logits(model, vocabulary):
    ids = torch.tensor([[1, 2, vocabulary.first, vocabulary.first + 3, vocabulary.marks[0], 4]])
    with torch.no_grad():
        return model(ids).logits


def test_a_joined_model_computes_the_same_and_has_a_row_for_every_token(taught):
    model, vocabulary = taught
    before = copy.deepcopy(model.state_dict())
    plain = joined(model, vocabulary)
    assert plain.config.vocab_size == len(vocabulary.tokenizer) == logits(plain, vocabulary).shape[-1]
    torch.testing.assert_close(logits(plain, vocabulary), logits(model, vocabulary), atol=1e-5, rtol=1e-5)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_written_read_and_parted_it_is_the_same_to_the_last_digit(taught, tmp_path):
    model, vocabulary = taught
    write_plain(model, vocabulary, tmp_path)
    plain, tokenizer = read_plain(tmp_path)
    again = known_vocabulary(tokenizer, CODES)
    assert again.first == vocabulary.first and again.marks == vocabulary.marks
    assert np.array_equal(again.item_tokens, vocabulary.item_tokens)
    assert all(torch.equal(one, other) for one, other in zip(again.code_tokens, vocabulary.code_tokens, strict=True))
    parted(plain, again)
    torch.testing.assert_close(logits(plain, again), logits(model, vocabulary), atol=1e-6, rtol=1e-6)
    head, rows = plain.get_output_embeddings(), plain.get_input_embeddings()
    tied = model.get_output_embeddings().rows is model.get_input_embeddings().rows
    assert (head.rows is rows.rows) == tied
    mine, theirs = head.code_logits(torch.ones(1, 16), again.code_tokens[1]), None
    theirs = model.get_output_embeddings().code_logits(torch.ones(1, 16), vocabulary.code_tokens[1])
    assert torch.equal(mine, theirs)


def test_a_tokenizer_of_other_codes_is_refused(taught):
    _, vocabulary = taught
    more = Codes(CODES.table, (3, 3))
    with pytest.raises(InputError, match="has no token '<a_2>'"):
        known_vocabulary(vocabulary.tokenizer, more)
