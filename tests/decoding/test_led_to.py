import functools
import math

import numpy as np
import pytest
import torch

from recbole_think.decoding.beam import BeamResult, Search, beam_search, search
from recbole_think.decoding.exact import score_items, score_targets
from recbole_think.decoding.reading import reader_of
from recbole_think.decoding.sampling import SampleOptions, noise_of, sample
from recbole_think.decoding.thinking import MERGE, led_to, merged
from recbole_think.decoding.trie import SidTrie
from recbole_think.prompts.batching import prompt_batch
from tests.small import FAMILIES, OTHERS, WORDS, backbone_of, distinct_codes, tokens_of_levels

SIZES, N, STOP = (4, 4, 4), 20, 7
TOKENS = tokens_of_levels(SIZES)
TRIE = SidTrie(torch.from_numpy(distinct_codes(N, SIZES)))
THOUGHTS, BEAMS = 3, 4


def beams(items, probabilities):
    scores = torch.tensor(probabilities, dtype=torch.float64).log().float()
    return BeamResult(torch.tensor(items), scores, torch.zeros(*scores.shape, 1, dtype=torch.int64))


# thought 1: item 5 at .6, item 2 at .2; thought 2: item 2 at .5, item 9 at .3; thought 3: item 9 at .3, item 7 at .25
THREE = beams([[5, 2], [2, 9], [9, 7]], [[0.6, 0.2], [0.5, 0.3], [0.3, 0.25]])


@pytest.mark.parametrize(
    ("how", "wanted"),
    [
        ("marginal", [2, 5, 9, 7]),  # .7, .6, .6, .25
        ("max", [5, 2, 9, 7]),  # .6, .5, .3, .25
        ("vote", [2, 9, 5, 7]),  # 2 of .7, 2 of .6, 1 of .6, 1 of .25
    ],
)
def test_lists_are_merged_by_the_numbers_of_their_thoughts(how, wanted):
    close = THREE if how != "marginal" else beams(THREE.items.tolist(), [[0.61, 0.2], [0.5, 0.3], [0.3, 0.25]])
    assert merged(close, 3, how) == [wanted]


def test_lists_are_merged_by_the_marginal_unless_asked_otherwise():
    assert merged(THREE, 3) == merged(THREE, 3, "marginal") != merged(THREE, 3, "max")


@pytest.mark.parametrize("how", MERGE)
def test_each_user_is_merged_from_thoughts_of_their_own(how):
    two = beams([[5, 2], [5, 3], [8, 1], [8, 4]], [[0.6, 0.2], [0.5, 0.3], [0.9, 0.05], [0.8, 0.1]])
    assert merged(two, 2, how) == [[5, 3, 2], [8, 4, 1]]
    assert merged(two, 1, how) == [[5, 2], [5, 3], [8, 1], [8, 4]], "one thought is its own list"


@pytest.mark.parametrize("how", MERGE)
def test_places_after_the_end_of_a_list_are_no_items(how):
    short = beams([[5, -1, -1], [2, 5, -1]], [[0.6, 0, 0], [0.2, 0.1, 0]])
    assert merged(short, 2, how) == [[5, 2]]
    assert merged(beams([[-1], [-1]], [[0.0], [0.0]]), 2, how) == [[]]


@pytest.mark.parametrize("how", MERGE)
def test_ties_go_to_the_smaller_item_whichever_thought_named_it_first(how):
    assert merged(beams([[9, 4], [6, 1]], [[0.5, 0.25], [0.5, 0.25]]), 2, how) == [[6, 9, 1, 4]]


def test_the_marginal_of_very_unlikely_items_is_not_lost():
    unlikely = BeamResult(
        torch.tensor([[3, 1], [1, 2]]), torch.tensor([[-900.0, -900.2], [-900.2, -900.1]]), torch.zeros(2, 2, 1)
    )
    assert merged(unlikely, 2, "marginal") == [[1, 3, 2]]


@functools.cache
def world(family="qwen3"):
    model = backbone_of(family, WORDS + sum(SIZES))
    dice = np.random.default_rng(0)
    return model, [dice.integers(8, WORDS, length) for length in (7, 2, 5)]


def thoughts_of(model, prompts, max_tokens=10):
    options = SampleOptions(THOUGHTS, max_tokens, temperature=2.0)
    noise = noise_of([(0, row) for row in range(len(prompts))], options)
    return sample(model, *prompt_batch(prompts, 0), options, STOP, noise)


def read_anew(prompts, samples):
    """Every prompt with every thought behind it, the closing mark included."""
    return [
        np.concatenate([prompt, samples.tokens[user, number, : samples.lengths[user, number]]])
        for user, prompt in enumerate(prompts)
        for number in range(THOUGHTS)
    ]


def masks(users, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).random((users, N)) < 0.5)


@pytest.mark.parametrize("how", MERGE)
@pytest.mark.parametrize("family", ["qwen3", "gemma", "mistral"])
@pytest.mark.parametrize("masked", [False, True])
def test_thinking_is_a_beam_search_behind_every_thought_and_a_merge(family, masked, how):
    model, prompts = world(family)
    samples = thoughts_of(model, prompts)
    mask = masks(3) if masked else None
    found = led_to(Search(model, samples.reader, TRIE, TOKENS, "level"), samples, BEAMS, mask)
    whole = read_anew(prompts, samples)
    assert len({len(one) for one in whole}) > 1, "thoughts of different lengths"
    ranked = merged(found.beams, THOUGHTS, how)
    for user in range(3):
        by_item: dict[int, list[float]] = {}
        for one in whole[user * THOUGHTS : (user + 1) * THOUGHTS]:
            of_user = None if mask is None else mask[user : user + 1]
            anew = beam_search(model, *prompt_batch([one], 0), TRIE, TOKENS, BEAMS, "level", item_mask=of_user)
            for item, score in zip(anew.items[0].tolist(), anew.scores[0].tolist(), strict=True):
                by_item.setdefault(item, []).append(math.exp(score))
        worth = {
            "marginal": lambda item, of=by_item: sum(of[item]) / THOUGHTS,
            "max": lambda item, of=by_item: max(of[item]),
            "vote": lambda item, of=by_item: (len(of[item]), sum(of[item])),
        }[how]
        assert ranked[user] == sorted(by_item, key=worth, reverse=True)
        assert len(set(ranked[user])) == len(ranked[user])


def test_what_was_thought_is_handed_on():
    model, prompts = world()
    samples = thoughts_of(model, prompts)
    found = led_to(Search(model, samples.reader, TRIE, TOKENS, "level"), samples, BEAMS)
    for name in ("tokens", "lengths", "closed"):
        assert torch.equal(getattr(found, name), getattr(samples, name))
    assert found.log_probs is None and found.beams.items.shape == (3 * THOUGHTS, BEAMS)


def test_what_may_not_be_named_is_named_after_none_of_the_thoughts_of_the_user_it_concerns():
    model, prompts = world()
    samples = thoughts_of(model, prompts)
    fixed = Search(model, samples.reader, TRIE, TOKENS, "level")
    mask = masks(3, seed=4)
    for number, items in enumerate(led_to(fixed, samples, N, mask).beams.items):
        free = (~mask[number // THOUGHTS]).nonzero()[:, 0].tolist()
        assert sorted(item for item in items.tolist() if item >= 0) == free


def test_more_beams_than_items_name_every_item_once():
    model, prompts = world()
    samples = thoughts_of(model, prompts)
    found = led_to(Search(model, samples.reader, TRIE, TOKENS, "level"), samples, 10 * N)
    for items in found.beams.items.tolist():
        assert sorted(items) == list(range(N))


@pytest.mark.parametrize("normalize", ["vocab", "level", "valid"])
def test_the_item_asked_for_is_scored_after_every_thought_and_no_mask_concerns_it(normalize):
    model, prompts = world()
    samples = thoughts_of(model, prompts)
    targets, mask = torch.tensor([4, 0, 19]), torch.zeros(3, N, dtype=torch.bool)
    mask[torch.arange(3), targets] = True
    fixed = Search(model, samples.reader, TRIE, TOKENS, normalize)
    asked, unasked = led_to(fixed, samples, BEAMS, mask, targets), led_to(fixed, samples, BEAMS, mask)
    every = score_items(model, *prompt_batch(read_anew(prompts, samples), 0), TRIE, TOKENS, normalize)
    wanted = every.gather(1, targets.repeat_interleave(THOUGHTS)[:, None])[:, 0]
    torch.testing.assert_close(asked.log_probs, wanted, atol=1e-4, rtol=1e-4)
    assert torch.equal(asked.beams.items, unasked.beams.items), "asking changes no list"
    torch.testing.assert_close(asked.beams.scores, unasked.beams.scores)


@pytest.mark.parametrize("family", FAMILIES + OTHERS)
@pytest.mark.parametrize("normalize", ["vocab", "level", "valid"])
def test_one_item_is_scored_as_it_is_among_all_and_the_place_stays_usable(family, normalize):
    model, prompts = world(family)
    batch = prompt_batch(prompts, 0)
    every = score_items(model, *batch, TRIE, TOKENS, normalize)
    before = beam_search(model, *batch, TRIE, TOKENS, BEAMS, normalize)
    reader = reader_of(model, batch[0].shape[1] + TRIE.levels)
    hidden, at = reader.prompts(*batch)
    fixed = Search(model, reader, TRIE, TOKENS, normalize)
    for first in range(N):
        items = (torch.arange(3) * 7 + first) % N
        found = score_targets(fixed, hidden, at, items)
        torch.testing.assert_close(found, every.gather(1, items[:, None])[:, 0], atol=1e-4, rtol=1e-4)
    after = search(fixed, hidden, at, BEAMS)
    assert torch.equal(after.items, before.items)
    torch.testing.assert_close(after.scores, before.scores, atol=1e-4, rtol=1e-4)
