import functools
import operator

import numpy as np
import pytest
import torch

from recbole_think.errors import InputError
from recbole_think.itemic.backbone import tiny
from recbole_think.itemic.codes import Codes
from recbole_think.itemic.vocabulary import (
    MARKS,
    CodeHead,
    CodeRows,
    extend_tokenizer,
    starting_rows,
    teach_vocabulary,
    token_names,
)
from tests.small import WORDS, distinct_codes, item_texts, plain_qwen, taught

SIZES = (3, 4, 2)
TABLE = distinct_codes(10, SIZES)
NEW = sum(SIZES)


def test_codes_are_spelt_by_level_and_number():
    assert token_names(Codes(np.array([[0, 1]]), (2, 3))) == [["<a_0>", "<a_1>"], ["<b_0>", "<b_1>", "<b_2>"]]


def test_the_tokenizer_grows_at_its_end_level_after_level():
    _, tokenizer = tiny(["text"])
    before = len(tokenizer)
    vocabulary = extend_tokenizer(tokenizer, Codes(TABLE, SIZES))
    assert vocabulary.first == before and len(tokenizer) == before + NEW + len(MARKS)
    assert vocabulary.marks == (before + NEW, before + NEW + 1), "a tokenizer without them gets the marks of a thought"
    flat = torch.cat(vocabulary.code_tokens).tolist()
    assert flat == list(range(before, before + NEW))
    assert tokenizer.convert_ids_to_tokens(flat) == functools.reduce(
        operator.iadd, token_names(Codes(TABLE, SIZES)), []
    )


def test_an_item_is_its_codes_as_tokens_and_reads_back():
    _, vocabulary = taught(TABLE, SIZES)
    for item, codes in enumerate(TABLE.tolist(), start=1):
        spelt = "".join(f"<{letter}_{code}>" for letter, code in zip("abc", codes, strict=True))
        assert vocabulary.spell(item) == spelt
        tokens = vocabulary.item_tokens[item - 1].tolist()
        assert vocabulary.tokenizer.encode(spelt, add_special_tokens=False) == tokens
        assert [int(vocabulary.code_tokens[level][code]) for level, code in enumerate(codes)] == tokens


def test_a_backbone_that_knows_such_tokens_already_is_refused():
    _, tokenizer = tiny(["text"])
    tokenizer.add_tokens(["<b_1>"])
    with pytest.raises(InputError, match="<b_1>"):
        extend_tokenizer(tokenizer, Codes(TABLE, SIZES))


@pytest.mark.parametrize("levels", [26, 27])
def test_there_is_a_letter_for_every_level_or_an_input_error(levels):
    table = np.zeros((1, levels), dtype=np.int64)
    if levels <= 26:
        assert token_names(Codes(table, (2,) * levels))[-1] == ["<z_0>", "<z_1>"]
    else:  # 26 levels and one that counts collisions
        with pytest.raises(InputError, match="letters"):
            Codes(table, (2,) * levels)


def resized_twin(model, first, rows, head_rows):
    """The same language model, resized by transformers, with the same rows at the end."""
    tied = model.config.tie_word_embeddings
    twin = plain_qwen(model.config.vocab_size, tied=tied)
    state = {
        name.replace("embed_tokens.text", "embed_tokens").replace("lm_head.text", "lm_head"): value
        for name, value in model.state_dict().items()
        if not name.endswith(".rows")
    }
    twin.load_state_dict(state)
    twin.resize_token_embeddings(first + len(rows), mean_resizing=False)
    with torch.no_grad():
        twin.get_input_embeddings().weight[first:] = rows
        twin.get_output_embeddings().weight[first:] = head_rows
    return twin.eval()


@pytest.mark.parametrize("spare", [0, 6], ids=["full", "spare rows"])
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@torch.no_grad()
def test_rows_beside_the_words_are_a_resized_model(tied, spare):
    _, tokenizer = tiny(item_texts(10))
    first = len(tokenizer)
    model = plain_qwen(first + spare, tied=tied)
    vocabulary = extend_tokenizer(tokenizer, Codes(TABLE, SIZES))
    teach_vocabulary(model, vocabulary, Codes(TABLE, SIZES), item_texts(10))
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    assert isinstance(embedding, CodeRows) and isinstance(head, CodeHead)
    assert (head.rows is embedding.rows) == tied
    if not tied:
        head.rows += torch.randn(head.rows.shape, generator=torch.Generator().manual_seed(1))
    twin = resized_twin(model, first, embedding.rows, head.rows)
    ids = torch.randint(0, first + NEW, (2, 9), generator=torch.Generator().manual_seed(0))
    ids[0, :3] = torch.tensor([first, first + NEW - 1, first - 1])
    found, wanted = model(ids).logits, twin(ids).logits
    assert found.shape == (2, 9, first + NEW + len(MARKS))
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)
    hidden = model.get_decoder()(ids).last_hidden_state
    for tokens in vocabulary.code_tokens:
        torch.testing.assert_close(head.code_logits(hidden, tokens), wanted[..., tokens], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_gradients_reach_the_rows_and_not_the_frozen_words(tied):
    from recbole_think.stages.training import freeze_words

    _, tokenizer = tiny(item_texts(10))
    model = plain_qwen(len(tokenizer), tied=tied)
    vocabulary = extend_tokenizer(tokenizer, Codes(TABLE, SIZES))
    teach_vocabulary(model, vocabulary, Codes(TABLE, SIZES), item_texts(10))
    freeze_words(model)
    ids = torch.tensor([[1, 2, *vocabulary.item_tokens[0]]])
    model(ids).logits.logsumexp(-1).sum().backward()
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    assert (embedding.rows.grad[vocabulary.item_tokens[0] - vocabulary.first].abs().sum(1) > 0).all()
    assert (head.rows.grad.abs().sum(1) > 0).all()
    assert embedding.text.weight.grad is None and head.text.weight.grad is None
    names = [name for name, _ in model.named_parameters() if name.endswith(".rows")]
    assert len(names) == (1 if tied else 2), "tied rows are one parameter, untied are two"


def test_an_embedding_that_scales_its_words_scales_its_codes_too():
    class Scaled(torch.nn.Embedding):
        embed_scale = 3.0

        def forward(self, ids):
            return super().forward(ids) * self.embed_scale

    rows = torch.randn(4, 5)
    embedding = CodeRows(Scaled(7, 5), rows, 7)
    torch.testing.assert_close(embedding(torch.tensor([[8, 10]])), 3.0 * rows[[1, 3]][None])


def test_logits_of_codes_are_float32_within_lower_precision():
    rows = torch.nn.Parameter(torch.randn(4, 5))
    head = CodeHead(torch.nn.Linear(5, 7), rows, 7)
    hidden = torch.randn(2, 5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = head.code_logits(hidden, torch.tensor([8, 9]))
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, hidden @ rows[1:3].T)


def words_of(vocabulary):
    return torch.randn(vocabulary.first, 16, generator=torch.Generator().manual_seed(0))


def test_starting_rows_follow_the_texts_of_the_items_that_carry_the_code():
    # items 1 and 2 carry <a_0> and speak of cats, items 3 and 4 carry <a_1> and speak of engines
    table = np.array([[0, 0], [0, 1], [1, 0], [1, 1]])
    texts = ["cat kitten cat", "kitten cat kitten", "engine motor", "motor engine motor"]
    _, tokenizer = tiny(texts * 5)
    codes = Codes(table, (3, 2))
    vocabulary = extend_tokenizer(tokenizer, codes)
    words = words_of(vocabulary)
    rows = starting_rows(words, vocabulary, codes, texts)
    assert rows.shape == (5 + len(MARKS), 16) and rows.dtype == torch.float32 and rows.isfinite().all()
    mean = torch.stack([words[vocabulary.encode(text)].mean(0) for text in texts])
    of_codes = torch.stack([mean[:2].mean(0), mean[2:].mean(0)])
    away = of_codes - of_codes.mean(0)
    found = rows[:2] - words.mean(0)
    similarity = torch.nn.functional.cosine_similarity(found[:, None], away[None], dim=-1)
    torch.testing.assert_close(similarity.diagonal(), torch.ones(2), atol=1e-4, rtol=0)
    assert similarity[0, 1] < 0
    torch.testing.assert_close(found.norm(dim=1), words.std(0).norm().expand(2), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(rows[2], words.mean(0), msg="a code nobody carries starts at the mean word")


def test_starting_rows_are_finite_for_an_empty_text_and_for_items_that_say_the_same():
    codes = Codes(np.array([[0, 0], [0, 1], [1, 0]]), (2, 2))
    _, tokenizer = tiny(["same"])
    vocabulary = extend_tokenizer(tokenizer, codes)
    assert starting_rows(words_of(vocabulary), vocabulary, codes, ["", "same", "same"]).isfinite().all()
    assert starting_rows(words_of(vocabulary), vocabulary, codes, ["same"] * 3).isfinite().all()


def test_words_a_model_has_rows_for_and_no_tokens_stay_out_of_the_vocabulary():
    # Qwen pads its rows to a round number: logits of those rows would take the places of the codes
    _, tokenizer = tiny(item_texts(10))
    model = plain_qwen(len(tokenizer) + 11)
    vocabulary = extend_tokenizer(tokenizer, Codes(TABLE, SIZES))
    teach_vocabulary(model, vocabulary, Codes(TABLE, SIZES), item_texts(10))
    logits = model(torch.tensor([[1, 2, 3]])).logits
    assert logits.shape[-1] == len(vocabulary.tokenizer)
    assert WORDS < vocabulary.first
