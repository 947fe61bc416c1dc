import math

import numpy as np
import pytest
import torch

from recbole_think.decoding.beam import BeamResult, Search, beam_search
from recbole_think.decoding.exact import score_items, score_targets
from recbole_think.decoding.reading import reader_of
from recbole_think.decoding.sampling import SampleOptions, noise_of, sample
from recbole_think.decoding.thinking import MERGE, led_to, merged
from recbole_think.decoding.trie import SidTrie
from recbole_think.prompts.batching import prompt_batch
from tests.small import FAMILIES, OTHERS, WORDS, backbone_of, distinct_codes, tokens_of_levels

SIZES, N = (4, 4), 10
TOKENS = tokens_of_levels(SIZES)
TABLE = distinct_codes(N, SIZES)
STOP = 7


def world(family="qwen3"):
    model = backbone_of(family, WORDS + sum(SIZES))
    dice = np.random.default_rng(0)
    return model, [dice.integers(8, WORDS, length) for length in (7, 2, 5)], SidTrie(torch.from_numpy(TABLE))


def beams(items, probabilities):
    return BeamResult(torch.tensor(items), torch.tensor(probabilities).log(), torch.zeros(1))


# two thoughts of one user, three beams each; -1 is no answer
GIVEN = beams([[4, 2, 9], [2, 7, -1]], [[0.5, 0.3, 0.1], [0.35, 0.34, 0.0]])


@pytest.mark.parametrize(
    ("how", "wanted"),
    [
        ("marginal", [2, 4, 7, 9]),  # .65, .5, .34, .1
        ("max", [4, 2, 7, 9]),  # .5, .35, .34, .1
        ("vote", [2, 4, 7, 9]),  # two votes, then by marginal
    ],
)
def test_lists_of_several_thoughts_become_one_without_repeats(how, wanted):
    assert merged(GIVEN, 2, how) == [wanted]


def test_the_marginal_counts_what_a_thought_did_not_reach_as_impossible_there():
    two = beams([[1, 2], [3, 2]], [[0.6, 0.31], [0.6, 0.31]])
    assert merged(two, 2, "marginal") == [[2, 1, 3]], ".62 from two thoughts beats .6 from one; equals by item"
    assert merged(two, 2, "max") == [[1, 3, 2]]
    assert merged(beams([[1, 2], [3, 2]], [[0.6, 0.31], [0.6, 0.31]]), 1) == [[1, 2], [3, 2]], (
        "two users of one thought"
    )


@torch.no_grad()
@pytest.mark.parametrize("how", MERGE)
@pytest.mark.parametrize("family", ["qwen3", "mistral"])
def test_thinking_is_reading_every_thought_anew_searching_and_merging(family, how):
    model, prompts, trie = world(family)
    options = SampleOptions(samples=3, max_tokens=8, temperature=2.0)
    mask = torch.zeros(3, N, dtype=torch.bool)
    mask[1, :6] = True
    noise = noise_of([(0, row) for row in range(3)], options)
    samples = sample(model, *prompt_batch(prompts, 0), options, STOP, noise)
    found = led_to(Search(model, samples.reader, trie, TOKENS, "level"), samples, 4, mask)
    whole = [
        np.concatenate([prompts[user], found.tokens[user, number, : found.lengths[user, number]]])
        for user in range(3) for number in range(3)
    ]  # fmt: skip
    anew = beam_search(model, *prompt_batch(whole, 0), trie, TOKENS, 4, "level", item_mask=mask.repeat_interleave(3, 0))
    assert torch.equal(found.beams.items, anew.items)
    torch.testing.assert_close(found.beams.scores, anew.scores, atol=1e-4, rtol=1e-4)
    lists = merged(found.beams, 3, how)
    assert lists == merged(anew, 3, how)
    assert all(len(set(items)) == len(items) for items in lists)
    assert not set(lists[1]) & set(range(6)), "what is masked for a user is masked after each thought"


@torch.no_grad()
@pytest.mark.parametrize("normalize", ["vocab", "level", "valid"])
@pytest.mark.parametrize("family", [*FAMILIES, *OTHERS])
def test_the_score_of_one_item_is_the_one_it_has_among_all(family, normalize):
    model, prompts, trie = world(family)
    batch = prompt_batch(prompts, 0)
    everything = score_items(model, *batch, trie, TOKENS, normalize)
    reader = reader_of(model, 12)
    hidden, at = reader.prompts(*batch)
    fixed = Search(model, reader, trie, TOKENS, normalize)
    for items in ([0, 3, 9], [5, 5, 1]):  # twice from the same place
        found = score_targets(fixed, hidden, at, torch.tensor(items))
        torch.testing.assert_close(found, everything[torch.arange(3), items], atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_targets_are_scored_after_each_thought_whatever_is_masked():
    model, prompts, trie = world()
    options = SampleOptions(samples=2, max_tokens=5, temperature=2.0)
    samples = sample(model, *prompt_batch(prompts, 0), options, STOP, noise_of([(0, row) for row in range(3)], options))
    fixed = Search(model, samples.reader, trie, TOKENS, "level")
    mask = torch.zeros(3, N, dtype=torch.bool)
    mask[:, 4] = True
    found = led_to(fixed, samples, N, mask, torch.tensor([4, 4, 2]))
    assert not (found.beams.items == 4).any()
    free = led_to(fixed, samples, N, None)
    for row in range(6):
        target = (4, 4, 2)[row // 2]
        place = free.beams.items[row].tolist().index(target)
        assert math.isclose(found.log_probs[row], free.beams.scores[row, place], abs_tol=1e-4)
