import copy

import pytest
import torch

from recbole_think.decoding.beam import beam_search
from recbole_think.decoding.exact import score_items
from recbole_think.decoding.masked import MaskedReader
from recbole_think.decoding.precision import lowered
from recbole_think.decoding.sampling import SampleOptions, noise_of, sample
from recbole_think.decoding.trie import SidTrie
from recbole_think.prompts.batching import prompt_batch
from tests.small import distinct_codes, taught

SIZES, N = (4, 4, 4), 30


def world():
    table = distinct_codes(N, SIZES)
    model, vocabulary = taught(table, SIZES)
    texts = ("thing number", "the blue box of things")
    prompts = [torch.tensor(vocabulary.encode(text)).numpy() for text in texts]
    return model, (*prompt_batch(prompts, 0), SidTrie(torch.from_numpy(table)), vocabulary.code_tokens)


@pytest.mark.parametrize("normalize", ["vocab", "level", "valid"])
def test_a_lowered_copy_scores_items_nearly_as_the_model_does(normalize):
    model, given = world()
    exact = score_items(model, *given, normalize)
    low = score_items(lowered(model, torch.bfloat16), *given, normalize)
    assert low.dtype == torch.float32
    torch.testing.assert_close(low, exact, atol=0.1, rtol=0.02)
    assert not torch.equal(low, exact), "it did multiply in lower precision"


def test_a_lowered_copy_is_read_by_the_reader_of_everything_as_well(monkeypatch):
    model, given = world()
    fast = score_items(lowered(model, torch.bfloat16), *given)
    monkeypatch.setattr("recbole_think.decoding.exact.reader_of", lambda model, _: MaskedReader(model))
    slow = score_items(lowered(model, torch.bfloat16), *given)
    torch.testing.assert_close(slow, fast, atol=0.15, rtol=0.02)


def test_codes_do_not_tie_in_lower_precision():
    model, given = world()
    with torch.no_grad():  # thirty items whose scores lie closer than a bfloat16 of that size can tell
        rows = model.get_input_embeddings().rows
        rows.copy_(rows[:1] * 20 + 0.01 * torch.randn(rows.shape, generator=torch.Generator().manual_seed(0)))
    scores = score_items(lowered(model, torch.bfloat16), *given, "level")
    assert len(scores[0].unique()) == N


@pytest.mark.parametrize("words", ["few", "most"])
def test_a_lowered_copy_says_words_nearly_as_the_model_does(words):
    model, (ids, mask, _, code_tokens) = world()
    first = int(code_tokens[0][0])
    only = torch.cat([torch.arange(first if words == "most" else first // 4), *code_tokens])
    options = SampleOptions(samples=2, max_tokens=3)
    drawn = [
        sample(one, ids, mask, options, int(only[0]), noise_of([[0], [1]], options), only)
        for one in (model, lowered(model, torch.bfloat16))
    ]
    assert torch.equal(drawn[0].tokens, drawn[1].tokens)
    torch.testing.assert_close(drawn[1].log_probs, drawn[0].log_probs, atol=0.1, rtol=0.02)


def test_the_model_itself_stays_as_it_was_and_shares_nothing_that_learns():
    model, given = world()
    before = copy.deepcopy(model.state_dict())
    low = lowered(model, torch.bfloat16)
    with torch.no_grad():
        for value in low.parameters():
            value.zero_()
    for name, value in model.state_dict().items():
        assert value.dtype == torch.float32 and torch.equal(value, before[name]), name
    assert lowered(model, torch.float32) is model
    beam_search(model, *given, 3)


def test_layers_and_words_are_lowered_and_items_are_not():
    low = lowered(world()[0], torch.bfloat16)
    assert {value.dtype for value in low.get_decoder().layers.parameters()} == {torch.bfloat16}
    assert low.get_output_embeddings().text.weight.dtype == torch.bfloat16
    assert low.get_output_embeddings().rows.dtype == torch.float32
    assert low.get_output_embeddings().rows is low.get_input_embeddings().rows, "still tied"
