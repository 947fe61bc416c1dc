import numpy as np
import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer

from recbole_think.itemic.backbone import tiny
from recbole_think.itemic.codes import Codes
from recbole_think.itemic.vocabulary import CodeHead, CodeRows, extend_tokenizer, teach_vocabulary
from recbole_think.stages.dialect import PAD, Dialect, dialect_of, spoken_model
from recbole_think.stages.training import freeze_words
from tests.small import FAMILIES, OTHERS, backbone_of, distinct_codes, item_texts, plain_qwen

SIZES = (4, 4)
CODES = Codes(distinct_codes(10, SIZES), SIZES)
TOLERANCE = {"atol": 1e-5, "rtol": 1e-4}


def world(build):
    """A model that has learnt the codes, its vocabulary, and the dialect of some words, all codes and both marks."""
    _, tokenizer = tiny(item_texts(10))
    model = build(len(tokenizer))
    vocabulary = extend_tokenizer(tokenizer, CODES)
    teach_vocabulary(model, vocabulary, CODES, item_texts(10))
    with torch.no_grad():  # so that rows read and rows said differ where they may
        head = model.get_output_embeddings()
        head.rows += torch.randn(head.rows.shape, generator=torch.Generator().manual_seed(1))
    words = vocabulary.encode("thing number red box", lead=" ")
    return model.eval(), vocabulary, dialect_of(words, *vocabulary.code_tokens, vocabulary.marks)


KINDS = {
    "tied": lambda rows: plain_qwen(rows, tied=True), "untied": lambda rows: plain_qwen(rows, tied=False),
    "spare rows": lambda rows: plain_qwen(rows + 9, tied=True),
    **{family: lambda rows, family=family: backbone_of(family, rows) for family in FAMILIES + OTHERS},
}  # fmt: skip


def some(dialect, shape=(2, 9)):
    """Token ids of the whole vocabulary, drawn from the dialect: int64 of ``shape``."""
    return np.random.default_rng(0).choice(dialect.tokens, shape)


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_the_plain_model_says_of_every_token_of_the_dialect_what_the_taught_one_says(kind):
    model, _, dialect = world(KINDS[kind])
    spoken = spoken_model(model, dialect)
    tokens = some(dialect)
    wanted = model(torch.from_numpy(tokens)).logits[..., torch.from_numpy(dialect.tokens)]
    found = spoken(torch.from_numpy(dialect.ids(tokens))).logits
    assert found.shape[-1] == len(dialect.tokens) + 1
    torch.testing.assert_close(found[..., :-1], wanted, **TOLERANCE)


@pytest.mark.parametrize("kind", KINDS)
def test_the_plain_model_has_one_embedding_and_one_head_that_are_frozen_and_a_row_of_padding(kind):
    model, _, dialect = world(KINDS[kind])
    spoken = spoken_model(model, dialect)
    for part in (spoken.get_input_embeddings(), spoken.get_output_embeddings()):
        assert not isinstance(part, CodeRows | CodeHead)
        assert part.weight.shape[0] == spoken.config.vocab_size == dialect.pad + 1
        assert not part.weight.requires_grad and not part.weight[dialect.pad].any()
    assert spoken.config.pad_token_id == dialect.pad and not spoken.config.tie_word_embeddings


@pytest.mark.parametrize("kind", KINDS)
def test_the_taught_model_is_left_as_it_was(kind):
    model, vocabulary, dialect = world(KINDS[kind])
    config = model.config.to_dict()
    tokens = torch.from_numpy(some(dialect))
    before, names = model(tokens).logits, {name: value.clone() for name, value in model.state_dict().items()}
    spoken_model(model, dialect)
    assert model.config.to_dict() == config
    assert isinstance(model.get_input_embeddings(), CodeRows) and isinstance(model.get_output_embeddings(), CodeHead)
    assert torch.equal(model(tokens).logits, before)
    assert all(torch.equal(value, names[name]) for name, value in model.state_dict().items())
    assert model(tokens).logits.shape[-1] == len(vocabulary.tokenizer)


@pytest.mark.parametrize("kind", KINDS)
def test_training_the_plain_model_trains_the_layers_of_the_taught_one_and_no_rows(kind):
    model, _, dialect = world(KINDS[kind])
    freeze_words(model)
    spoken = spoken_model(model, dialect)
    tokens = some(dialect)
    ids, whole = torch.from_numpy(dialect.ids(tokens)), torch.from_numpy(tokens)
    rows = [part.rows.detach().clone() for part in (model.get_input_embeddings(), model.get_output_embeddings())]
    before = model(whole).logits.detach()
    learns = [value for value in spoken.parameters() if value.requires_grad]
    layers = {id(value) for value in model.get_decoder().layers.parameters()}
    assert layers <= {id(value) for value in learns}
    optimizer = torch.optim.SGD(learns, lr=0.05)
    spoken(ids).logits.logsumexp(-1).mean().backward()
    optimizer.step()
    after = model(whole).logits.detach()
    assert (after - before).abs().max() > 1e-3
    assert torch.equal(model.get_input_embeddings().rows, rows[0])
    assert torch.equal(model.get_output_embeddings().rows, rows[1])
    found = spoken(ids).logits[..., :-1]
    torch.testing.assert_close(found, after[..., torch.from_numpy(dialect.tokens)], **TOLERANCE)


@pytest.mark.parametrize("kind", ["tied", "untied", "gemma", "gemma3_text", "llama"])
@torch.no_grad()
def test_a_saved_plain_model_is_loaded_by_the_library_and_says_the_same(kind, tmp_path):
    model, vocabulary, dialect = world(KINDS[kind])
    spoken = spoken_model(model, dialect)
    spoken.save_pretrained(tmp_path)
    dialect.tokenizer(vocabulary).save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    tokens = some(dialect)
    ids = torch.from_numpy(dialect.ids(tokens))
    torch.testing.assert_close(loaded(ids).logits, spoken(ids).logits, **TOLERANCE)
    wanted = model(torch.from_numpy(tokens)).logits[..., torch.from_numpy(dialect.tokens)]
    torch.testing.assert_close(loaded(ids).logits[..., :-1], wanted, **TOLERANCE)
    again, text = AutoTokenizer.from_pretrained(tmp_path), " ".join(spelt(vocabulary, tokens[0]))
    assert again.encode(text) == ids[0].tolist()


def spelt(vocabulary, tokens) -> list[str]:
    return vocabulary.tokenizer.convert_ids_to_tokens(np.asarray(tokens).tolist())


def test_the_tokenizer_spells_every_token_as_the_whole_one_does_and_reads_it_back():
    _, vocabulary, dialect = world(KINDS["tied"])
    tokenizer = dialect.tokenizer(vocabulary)
    every = list(range(dialect.pad))
    assert tokenizer.convert_ids_to_tokens(every) == spelt(vocabulary, dialect.tokens)
    tokens = some(dialect, (40,))
    ids = dialect.ids(tokens).tolist()
    assert tokenizer.encode(" ".join(spelt(vocabulary, tokens))) == ids
    assert tokenizer.decode(ids).split() == spelt(vocabulary, tokens)
    assert len(tokenizer) == dialect.pad + 1


def test_the_tokenizer_pads_on_the_left_and_a_thought_ends_with_its_closing_mark():
    _, vocabulary, dialect = world(KINDS["tied"])
    tokenizer = dialect.tokenizer(vocabulary)
    assert tokenizer.pad_token == PAD and tokenizer.pad_token_id == dialect.pad
    assert dialect.tokens[tokenizer.eos_token_id] == vocabulary.marks[1]
    one, two = " ".join(spelt(vocabulary, dialect.tokens[:3])), spelt(vocabulary, dialect.tokens[:1])[0]
    padded = tokenizer([one, two], padding=True)
    assert padded["input_ids"] == [[0, 1, 2], [dialect.pad, dialect.pad, 0]]
    assert padded["attention_mask"] == [[1, 1, 1], [0, 0, 1]]


@torch.no_grad()
def test_padding_on_the_left_changes_nothing_of_what_is_said():
    model, _, dialect = world(KINDS["tied"])
    spoken = spoken_model(model, dialect)
    ids = torch.from_numpy(dialect.ids(some(dialect, (1, 6))))
    padded = torch.nn.functional.pad(ids, (3, 0), value=dialect.pad)
    mask = torch.tensor([[0] * 3 + [1] * 6])
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    found = spoken(padded, attention_mask=mask, position_ids=positions).logits[:, 3:]
    torch.testing.assert_close(found, spoken(ids).logits, **TOLERANCE)


def test_a_dialect_is_the_tokens_used_once_each_in_rising_order():
    dialect = dialect_of([9, 3, 9], np.array([3, 70]), (5,), [])
    assert dialect.tokens.tolist() == [3, 5, 9, 70] and dialect.pad == 4
    assert dialect.ids([[70, 3], [9, 5]]).tolist() == [[3, 0], [2, 1]]
    assert dialect.ids([]).tolist() == []


@pytest.mark.parametrize("strange", [0, 4, 10, 71, -1])
def test_a_strange_token_is_refused_by_its_number(strange):
    with pytest.raises(KeyError, match=f"token {strange} is not in the dialect"):
        Dialect(np.array([3, 5, 9, 70])).ids([3, 70, strange])


def test_a_head_that_is_more_than_rows_is_refused():
    model, _, dialect = world(KINDS["untied"])
    head = model.get_output_embeddings()
    head.text = nn.Linear(head.text.in_features, head.text.out_features, bias=True)
    with pytest.raises(TypeError, match="cannot be made plain"):
        spoken_model(model, dialect)
