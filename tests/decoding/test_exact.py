import numpy as np
import pytest
import torch

from recbole_think.decoding.beam import beam_search
from recbole_think.decoding.exact import score_items
from recbole_think.decoding.trie import SidTrie
from recbole_think.errors import InputError
from recbole_think.prompts.batching import prompt_batch
from tests.small import WORDS, backbone_of, distinct_codes, tokens_of_levels

SIZES, N = (4, 4, 4), 20
TOKENS = tokens_of_levels(SIZES)


def world(family="llama"):
    model = backbone_of(family, WORDS + sum(SIZES))
    dice = np.random.default_rng(0)
    batch = prompt_batch([dice.integers(1, WORDS, length) for length in (7, 2)], pad=0)
    return model, batch, SidTrie(torch.from_numpy(distinct_codes(N, SIZES)))


@pytest.mark.parametrize("family", ["llama", "mistral"])  # read by both readers
@pytest.mark.parametrize("normalize", ["vocab", "level", "valid"])
@pytest.mark.parametrize("rows", [1, 6, 4096])
def test_every_item_has_the_score_that_as_many_beams_as_items_give_it(family, normalize, rows):
    model, batch, trie = world(family)
    scores = score_items(model, *batch, trie, TOKENS, normalize, rows)
    beams = beam_search(model, *batch, trie, TOKENS, N, normalize)
    torch.testing.assert_close(scores.gather(1, beams.items), beams.scores, atol=1e-4, rtol=1e-4)
    assert sorted(beams.items[0].tolist()) == list(range(N))


def test_under_the_softmax_of_legal_codes_all_items_sum_to_one():
    model, batch, trie = world()
    scores = score_items(model, *batch, trie, TOKENS, "valid")
    torch.testing.assert_close(scores.exp().sum(1), torch.ones(2))


def test_no_more_branches_are_read_together_than_asked_for():
    model, batch, trie = world()
    rows = []
    hook = model.get_decoder().layers[0].mlp.register_forward_pre_hook(lambda _, args: rows.append(len(args[0])))
    score_items(model, *batch, trie, TOKENS, rows=6)
    hook.remove()
    assert max(rows[1:]) == 6 and sum(rows[1:]) == 2 * (len(trie.codes[0]) + len(trie.codes[1]))


def test_prompts_padded_on_the_right_are_refused():
    model, (ids, mask), trie = world()
    with pytest.raises(InputError, match="left-padded"):
        score_items(model, ids, mask.flip(1), trie, TOKENS)
