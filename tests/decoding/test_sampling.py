import numpy as np
import pytest
import torch

from recbole_think.decoding.beam import Search, beam_search, search
from recbole_think.decoding.sampling import SampleOptions, _draw, noise_of, reread, sample
from recbole_think.decoding.trie import SidTrie
from recbole_think.errors import InputError
from recbole_think.prompts.batching import prompt_batch
from tests.small import WORDS, backbone_of, distinct_codes, tokens_of_levels

SIZES = (4, 4)
TOKENS = tokens_of_levels(SIZES)
CODES = torch.cat(TOKENS)
STOP = 7


def world(family="qwen3"):
    model = backbone_of(family, WORDS + sum(SIZES))
    dice = np.random.default_rng(0)
    return model, [dice.integers(8, WORDS, length) for length in (7, 2, 5)]


def draw(model, prompts, seed=0, stop=STOP, only=None, **given):
    options = SampleOptions(**given)
    noise = noise_of([(seed, row) for row in range(len(prompts))], options)
    return sample(model, *prompt_batch(prompts, 0), options, stop, noise, only)


@torch.no_grad()
@pytest.mark.parametrize("family", ["qwen3", "mistral"])
def test_without_temperature_it_says_what_the_model_finds_most_likely(family):
    model, prompts = world(family)
    found = draw(model, prompts, samples=1, max_tokens=6, temperature=0.0, stop=0)
    for user, prompt in enumerate(prompts):
        said = prompt.tolist()
        for place in range(5):
            logits = model(torch.tensor([said])).logits[0, -1]
            assert int(logits.argmax()) == found.tokens[user, 0, place]
            expected = logits.log_softmax(0).max()
            torch.testing.assert_close(found.log_probs[user, 0, place], expected, atol=1e-4, rtol=1e-4)
            if logits.argmax() == 0:
                break
            said.append(int(logits.argmax()))


def test_samples_follow_the_probabilities_of_the_model():
    model, prompts = world()
    found = draw(model, prompts[:1], samples=4000, max_tokens=2, temperature=1.0)
    with torch.no_grad():
        wanted = model(torch.tensor(prompts[0])[None]).logits[0, -1].softmax(0)
    share = torch.bincount(found.tokens[0, :, 0], minlength=len(wanted)) / 4000
    error = (wanted * (1 - wanted) / 4000).sqrt()
    assert ((share - wanted).abs() <= 5 * error + 1e-4).all()


@torch.no_grad()
@pytest.mark.parametrize("family", ["llama", "gemma3_text", "mistral"])
def test_beams_after_a_thought_are_the_beams_after_prompt_and_thought_read_anew(family):
    model, prompts = world(family)
    trie = SidTrie(torch.from_numpy(distinct_codes(10, SIZES)))
    found = draw(model, prompts, samples=3, max_tokens=12, temperature=2.0)
    assert found.lengths.min() < found.lengths.max(), "thoughts of different lengths"
    fixed = Search(model, found.reader, trie, TOKENS, "vocab")
    after = search(fixed, found.hidden, found.at, 5)
    whole = [
        np.concatenate([prompts[row // 3], found.tokens[row // 3, row % 3, : found.lengths[row // 3, row % 3]]])
        for row in range(9)
    ]
    anew = beam_search(model, *prompt_batch(whole, 0), trie, TOKENS, 5)
    assert torch.equal(after.items, anew.items)
    torch.testing.assert_close(after.scores, anew.scores, atol=1e-4, rtol=1e-4)


def test_every_continuation_ends_with_the_stop_token_and_says_whether_it_came_by_itself():
    model, prompts = world()
    found = draw(model, prompts, samples=16, max_tokens=4, temperature=3.0)
    for row in range(3):
        for number in range(16):
            tokens, length = found.tokens[row, number].tolist(), int(found.lengths[row, number])
            assert tokens[length - 1] == STOP and STOP not in tokens[: length - 1]
            assert (found.log_probs[row, number, length:] == 0).all()
            if length < 4:
                assert found.closed[row, number]
    assert not found.closed.all()


def test_only_what_may_be_said_is_drawn_and_in_the_shares_it_has_among_itself():
    model, prompts = world()
    only = torch.tensor([3, STOP, 20, 31])
    found = draw(model, prompts[:1], samples=4000, max_tokens=2, only=only)
    assert set(found.tokens.flatten().tolist()) <= set(only.tolist())
    with torch.no_grad():
        wanted = model(torch.tensor(prompts[0])[None]).logits[0, -1, only].softmax(0)
    share = (found.tokens[0, :, :1] == only).float().mean(0)
    assert ((share - wanted).abs() <= 5 * (wanted * (1 - wanted) / 4000).sqrt() + 1e-4).all()
    with pytest.raises(InputError, match="could never end"):
        draw(model, prompts, only=torch.tensor([3, 20]))


def test_what_is_drawn_hangs_on_the_seed_of_the_prompt_and_not_on_its_company():
    model, prompts = world()
    options = SampleOptions(samples=3, max_tokens=8, temperature=3.0)
    together = sample(model, *prompt_batch(prompts, 0), options, STOP, noise_of([(1, 0), (1, 1), (1, 2)], options))
    alone = sample(model, *prompt_batch(prompts[2:], 0), options, STOP, noise_of([(1, 2)], options))
    length = alone.tokens.shape[2]
    assert torch.equal(together.tokens[2, :, :length], alone.tokens[0])


def test_a_token_without_any_share_is_not_drawn_by_the_largest_number_there_is():
    likely = torch.tensor([[[0.5, 0.5, 0.0]]]).log()
    assert _draw(likely, SampleOptions(), torch.tensor([[1 - 2**-24]])).item() == 1
    assert _draw(likely, SampleOptions(), torch.tensor([[0.0]])).item() == 0
    assert _draw(torch.tensor([[[0.0, 1.0, 0.0]]]).log(), SampleOptions(), torch.tensor([[0.0]])).item() == 1


def test_the_same_seed_draws_the_same_and_another_another():
    model, prompts = world()
    one, two, three = (draw(model, prompts, seed, temperature=3.0).tokens for seed in (1, 1, 2))
    assert torch.equal(one, two)
    assert one.shape != three.shape or not torch.equal(one, three)


def test_top_k_leaves_the_most_likely_tokens():
    model, prompts = world()
    found = draw(model, prompts[:1], samples=300, max_tokens=2, temperature=9.0, top_k=3)
    with torch.no_grad():
        best = model(torch.tensor(prompts[0])[None]).logits[0, -1].topk(3).indices
    assert set(found.tokens[0, :, 0].tolist()) == set(best.tolist())


@pytest.mark.parametrize("wrong", [{"samples": 0}, {"max_tokens": 0}, {"temperature": -1.0}, {"top_k": -1}])
def test_options_that_cannot_be_drawn_by_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        SampleOptions(**wrong)


@torch.no_grad()
@pytest.mark.parametrize("family", ["qwen3", "mistral"])
def test_what_another_engine_drew_is_read_to_where_our_own_drawing_stands(family):
    model, prompts = world(family)
    only = torch.tensor([STOP, 20, 21, 30])
    drawn = draw(model, prompts, samples=5, max_tokens=8, temperature=2.0, only=only)
    assert len(drawn.lengths.unique()) > 1
    found = reread(model, *prompt_batch(prompts, 0), drawn.tokens, drawn.lengths, drawn.closed, drawn.log_probs)
    torch.testing.assert_close(found.hidden, drawn.hidden, atol=1e-5, rtol=1e-5)
    trie = SidTrie(torch.from_numpy(distinct_codes(10, SIZES)))
    ours, theirs = (
        search(Search(model, samples.reader, trie, TOKENS, "level"), samples.hidden, samples.at, 5)
        for samples in (drawn, found)
    )
    assert torch.equal(ours.items, theirs.items)
