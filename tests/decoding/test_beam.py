import math

import numpy as np
import pytest
import torch

from recbole_think.decoding.allowed import parted
from recbole_think.decoding.beam import Group, Search, beam_search, search_groups
from recbole_think.decoding.item_mask import ItemMask, cells_of
from recbole_think.decoding.reading import reader_of
from recbole_think.decoding.trie import SidTrie
from recbole_think.errors import InputError
from recbole_think.prompts.batching import prompt_batch
from tests.small import WORDS, distinct_codes, plain_qwen, taught, tokens_of_levels

SIZES = (4, 4, 4)
N = 20
TOKENS = tokens_of_levels(SIZES)
KINDS = ("vocab", "level", "valid")


def world(attention="sdpa", seed=0, n=N):
    """A random model, a random catalogue, and three prompts of different lengths."""
    model = plain_qwen(WORDS + sum(SIZES), attention=attention, seed=seed)
    table = distinct_codes(n, SIZES, seed)
    dice = np.random.default_rng(seed)
    prompts = [dice.integers(1, WORDS, length) for length in (7, 2, 5)]
    return model, table, SidTrie(torch.from_numpy(table)), prompts


def search(model, trie, prompts, beams, normalize="vocab", mask=None, tokens=TOKENS):
    return beam_search(model, *prompt_batch(prompts, pad=0), trie, tokens, beams, normalize, item_mask=mask)


@torch.no_grad()
def brute_force(model, prompt, table, normalize, masked=frozenset(), tokens=TOKENS):
    """Score every item that may be named by reading prompt and item as one plain sequence; best first, then by id."""
    items = [item for item in range(len(table)) if item not in masked]
    scored = []
    for item in items:
        codes = table[item].tolist()
        answer = [int(tokens[level][code]) for level, code in enumerate(codes)]
        logits = model(torch.tensor([[*prompt.tolist(), *answer]])).logits[0].double()
        score = 0.0
        for level, code in enumerate(codes):
            here = logits[len(prompt) - 1 + level]
            if normalize == "vocab":
                rivals = here
            elif normalize == "level":
                rivals = here[tokens[level]]
            else:
                siblings = {int(table[i, level]) for i in items if table[i, :level].tolist() == codes[:level]}
                rivals = here[tokens[level][sorted(siblings)]]
            score += float(here[tokens[level][code]] - rivals.logsumexp(0))
        scored.append((-score, item))
    scored.sort()
    return [item for _, item in scored], [-score for score, _ in scored]


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("normalize", KINDS)
def test_as_many_beams_as_items_rank_like_brute_force(normalize, attention):
    model, table, trie, prompts = world(attention)
    found = search(model, trie, prompts, N, normalize)
    assert found.items.shape == found.scores.shape == (3, N) and found.codes.shape == (3, N, 3)
    for user, prompt in enumerate(prompts):
        items, scores = brute_force(model, prompt, table, normalize)
        assert found.items[user].tolist() == items
        assert found.scores[user].tolist() == pytest.approx(scores, abs=1e-4)
        assert found.codes[user].tolist() == table[items].tolist()
        if normalize == "valid":
            assert math.fsum(math.exp(score) for score in scores) == pytest.approx(1)


@pytest.mark.parametrize("normalize", KINDS)
def test_a_taught_backbone_is_searched_like_brute_force(normalize):
    table = distinct_codes(12, SIZES, seed=4)
    model, vocabulary = taught(table, SIZES)
    prompts = [np.array(vocabulary.encode("thing number")), np.array(vocabulary.encode("the blue box of things"))]
    tokens = vocabulary.code_tokens
    found = search(model, SidTrie(torch.from_numpy(table)), prompts, 12, normalize, tokens=tokens)
    for user, prompt in enumerate(prompts):
        items, scores = brute_force(model, prompt, table, normalize, tokens=tokens)
        assert found.items[user].tolist() == items
        assert found.scores[user].tolist() == pytest.approx(scores, abs=1e-4)


@pytest.mark.parametrize("normalize", KINDS)
def test_masked_items_are_never_named_and_the_rest_is_ranked_like_brute_force(normalize):
    model, table, trie, prompts = world(seed=1)
    mask = torch.from_numpy(np.random.default_rng(1).random((3, N)) < 0.6)
    mask[1] = True
    mask[1, [3, 11]] = False
    found = search(model, trie, prompts, N, normalize, mask)
    for user, prompt in enumerate(prompts):
        masked = set(mask[user].nonzero().flatten().tolist())
        items, scores = brute_force(model, prompt, table, normalize, masked)
        assert found.items[user, : len(items)].tolist() == items
        assert found.scores[user, : len(items)].tolist() == pytest.approx(scores, abs=1e-4)
        assert (found.items[user, len(items) :] == -1).all()
        assert found.scores[user, len(items) :].isneginf().all()


def test_fewer_items_than_beams_leave_marked_places_at_the_end():
    model, _, trie, prompts = world()
    mask = torch.ones(3, N, dtype=torch.bool)
    mask[:, [2, 5, 7]] = False
    found = search(model, trie, prompts, 8, mask=mask)
    for items, scores in zip(found.items, found.scores, strict=True):
        assert sorted(items[:3].tolist()) == [2, 5, 7] and items[3:].tolist() == [-1] * 5
        assert scores[:3].isfinite().all() and scores[3:].isneginf().all()


def test_a_narrow_level_pads_the_result_to_the_beams_asked_for():
    # a root with one child and a node with two: at no level are there as many children as beams
    table = np.array([[0, 0, 0], [0, 0, 1]])
    trie = SidTrie(torch.from_numpy(table))
    model, _, _, prompts = world()
    mask = torch.tensor([[False, True], [True, False], [False, False]])
    found = search(model, trie, prompts, 2, mask=mask)
    assert found.items[0].tolist() == [0, -1] and found.items[1].tolist() == [1, -1]
    assert sorted(found.items[2].tolist()) == [0, 1]


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("beams", [1, 3, N])
def test_a_prompt_gets_the_same_answer_alone_and_in_a_padded_batch(beams, attention):
    model, _, trie, prompts = world(attention, seed=2)
    together = search(model, trie, prompts, beams)
    for user, prompt in enumerate(prompts):
        alone = search(model, trie, [prompt], beams)
        assert alone.items[0].tolist() == together.items[user].tolist()
        assert alone.scores[0].tolist() == pytest.approx(together.scores[user].tolist(), abs=1e-4)


def test_what_stands_in_the_padding_changes_nothing():
    model, _, trie, prompts = world()
    ids, attention = prompt_batch(prompts, pad=0)
    other = torch.where(attention.bool(), ids, torch.full_like(ids, WORDS - 1))
    one, two = (beam_search(model, given, attention, trie, TOKENS, 5) for given in (ids, other))
    assert torch.equal(one.items, two.items)
    torch.testing.assert_close(one.scores, two.scores)


@pytest.mark.parametrize("normalize", KINDS)
def test_equal_scores_are_ordered_by_item(normalize):
    model, _table, trie, prompts = world()
    with torch.no_grad():
        model.lm_head.weight.zero_()  # every token is as likely as every other
    found = search(model, trie, prompts, N, normalize)
    if normalize == "valid":  # the score then depends on how many siblings there are
        for items, scores in zip(found.items.tolist(), found.scores.tolist(), strict=True):
            assert list(zip(items, scores, strict=True)) == sorted(
                zip(items, scores, strict=True), key=lambda pair: (-pair[1], pair[0])
            )
            assert len(set(scores)) < N, "there were ties to order"
    else:
        assert found.items.tolist() == [list(range(N))] * 3


@pytest.mark.parametrize("beams", [1, 3, 6])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_beam_search_finds_what_hugging_face_finds_with_a_correct_trie(seed, beams):
    model, table, trie, prompts = world(seed=seed)
    found = search(model, trie, prompts, beams)
    answers = [[int(TOKENS[level][code]) for level, code in enumerate(row)] for row in table.tolist()]
    ids, attention = prompt_batch(prompts, pad=0)

    def allowed(_, sequence):
        said = sequence[ids.shape[1] :].tolist()
        return sorted({answer[len(said)] for answer in answers if answer[: len(said)] == said})

    out = model.generate(
        input_ids=ids, attention_mask=attention, num_beams=beams, num_return_sequences=beams, do_sample=False,
        max_new_tokens=len(SIZES), prefix_allowed_tokens_fn=allowed, length_penalty=0.0, return_dict_in_generate=True,
        output_scores=True, pad_token_id=0,
    )  # fmt: skip
    theirs = [answers.index(row) for row in out.sequences[:, ids.shape[1] :].tolist()]
    assert found.items.flatten().tolist() == theirs
    if beams > 1:
        assert found.scores.flatten().tolist() == pytest.approx(out.sequences_scores.tolist(), abs=1e-4)


def test_the_prompt_is_read_once_and_never_copied_per_beam():
    model, _, trie, prompts = world()
    rows = []
    first = model.get_decoder().layers[0]
    hook = first.mlp.register_forward_pre_hook(lambda _, args: rows.append(args[0].shape[:-1].numel()))
    search(model, trie, prompts, 3)
    hook.remove()
    assert rows == [7 + 2 + 5, 3 * 3, 3 * 3], "real tokens of the prompts, then one token a beam"


def test_of_the_last_layer_only_the_ends_of_the_prompts_are_computed():
    model, _, trie, prompts = world()
    rows = []
    last = model.get_decoder().layers[-1]
    hook = last.mlp.register_forward_pre_hook(lambda _, args: rows.append(args[0].shape[:-1].numel()))
    search(model, trie, prompts, 1)
    hook.remove()
    assert rows == [3, 3, 3]


@pytest.mark.parametrize("normalize", KINDS)
@pytest.mark.parametrize("depth", [1, 2])
def test_under_prefixes_the_search_is_that_of_the_items_below_them(normalize, depth):
    model, table, trie, prompts = world(seed=1)
    dice = np.random.default_rng(depth)
    prefix, mask = [], torch.ones(3, N, dtype=torch.bool)
    for user in range(3):
        codes = table[dice.choice(N, 4, replace=False), :depth]
        prefix.append(torch.from_numpy(codes))
        below = (table[:, None, :depth] == codes[None]).all(2).any(1)
        mask[user, torch.from_numpy(below)] = False
    under = beam_search(model, *prompt_batch(prompts, 0), trie, TOKENS, N, normalize, prefix)
    masked = search(model, trie, prompts, N, normalize, mask)
    assert torch.equal(under.items, masked.items)
    torch.testing.assert_close(under.scores, masked.scores)


def test_prefixes_and_a_mask_hold_together():
    model, table, trie, prompts = world()
    prefix = [torch.from_numpy(table[[0, 1, 2], :2])] * 3
    mask = torch.zeros(3, N, dtype=torch.bool)
    mask[:, 1] = True
    found = beam_search(model, *prompt_batch(prompts, 0), trie, TOKENS, N, "vocab", prefix, mask)
    allowed = {i for i in range(N) if any((table[i, :2] == table[j, :2]).all() for j in range(3))} - {1}
    for items in found.items.tolist():
        assert {item for item in items if item >= 0} == allowed


@pytest.mark.parametrize(
    ("prefix", "message"),
    [
        ([torch.zeros(1, 1)] * 2, "2 tensors for 3 prompts"),
        ([torch.zeros(1, 3, dtype=torch.int64)] * 3, "1 to 2 codes"),
        ([torch.zeros(1, 0, dtype=torch.int64)] * 3, "1 to 2 codes"),
        ([torch.zeros(2, dtype=torch.int64)] * 3, "1 to 2 codes"),
        ([torch.tensor([[9]])] * 3, r"no item begins with the codes \[9\]"),
        ([torch.zeros(0, 1, dtype=torch.int64)] * 3, "row 0: every item is masked"),
    ],
    ids=["of other users", "whole items", "no codes", "not a table", "of no item", "an empty one"],
)
def test_prefixes_that_cannot_be_searched_under_are_refused(prefix, message):
    model, _, trie, prompts = world()
    with pytest.raises(InputError, match=message):
        beam_search(model, *prompt_batch(prompts, 0), trie, TOKENS, 3, "vocab", prefix)


def test_lower_precision_around_it_still_gives_float32_scores_near_the_true_ones():
    model, _, trie, prompts = world()
    exact = search(model, trie, prompts, N, "level")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = search(model, trie, prompts, N, "level")
    assert found.scores.dtype == torch.float32
    for user in range(3):
        by_item = dict(zip(exact.items[user].tolist(), exact.scores[user].tolist(), strict=True))
        for item, score in zip(found.items[user].tolist(), found.scores[user].tolist(), strict=True):
            assert score == pytest.approx(by_item[item], abs=0.5)


@pytest.mark.parametrize("normalize", KINDS)
@pytest.mark.parametrize("where", ["head", "layer"])
def test_weights_that_are_not_numbers_are_an_error_and_no_list(normalize, where):
    model, _, trie, prompts = world()
    with torch.no_grad():
        broken = model.lm_head if where == "head" else model.get_decoder().layers[1].mlp.down_proj
        broken.weight.fill_(math.nan)
    with pytest.raises(FloatingPointError, match="NaN"):
        search(model, trie, prompts, 3, normalize)


GOOD = {"num_beams": 3, "normalize": "vocab", "code_tokens": TOKENS, "item_mask": None}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"num_beams": 0}, "num_beams"),
        ({"num_beams": -2}, "num_beams"),
        ({"num_beams": N + 1}, f"{N} items"),
        ({"normalize": "softmax"}, "softmax"),
        ({"code_tokens": TOKENS[:2]}, "levels"),
        ({"code_tokens": [*TOKENS, TOKENS[0]]}, "levels"),
        ({"code_tokens": [TOKENS[0], TOKENS[1], TOKENS[2][:1]]}, None),
        ({"item_mask": torch.eye(3, N).bool() | torch.tensor([[False], [True], [False]])}, "row 1"),
        ({"item_mask": torch.zeros(3, N - 1, dtype=torch.bool)}, None),
        ({"item_mask": torch.zeros(2, N, dtype=torch.bool)}, None),
        ({"input_ids": torch.zeros(3, 0, dtype=torch.int64), "attention_mask": torch.zeros(3, 0)}, "prompt"),
        ({"attention_mask": torch.ones(3, 5, dtype=torch.int64)}, None),
        ({"attention_mask": torch.tensor([[1] * 7, [1, 1, 0, 0, 0, 0, 0], [1] * 7])}, None),  # padded on the right
        ({"attention_mask": torch.tensor([[1] * 7, [0] * 7, [1] * 7])}, None),  # no prompt at all
    ],
    ids=[
        "no beams", "negative beams", "more beams than items", "unknown normalisation", "too few levels",
        "too many levels", "a code without a token", "everything masked", "mask of another catalogue",
        "mask of other users", "empty prompts", "attention of another shape", "padding on the right",
        "one prompt is all padding",
    ],
)  # fmt: skip
def test_what_cannot_be_searched_is_refused(wrong, message):
    model, _, trie, prompts = world()
    ids, attention = prompt_batch(prompts, pad=0)
    given = {"input_ids": ids, "attention_mask": attention, **GOOD, **wrong}
    with pytest.raises(InputError, match=message):
        beam_search(model, trie=trie, **given)


def groups_of(model, trie, prompts, groups):
    reader = reader_of(model, 64)
    with torch.no_grad():
        hidden, at = reader.prompts(*prompt_batch(prompts, pad=0))
        return search_groups(Search(model, reader, trie, TOKENS, "level"), hidden, at, groups)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_groups_of_beams_find_side_by_side_what_each_finds_alone(attention):
    model, table, trie, prompts = world(attention)
    nothing = torch.zeros(0, dtype=torch.int64)
    prefixes = [torch.from_numpy(np.unique(table[rows, :2], axis=0)) for rows in ([0, 3, 7], [1], [2, 5, 11, 13])]
    within, without = parted(trie, prefixes, ItemMask(nothing, nothing, (3, N)))
    together = groups_of(model, trie, prompts, [Group(6, within), Group(3, without), Group(4)])
    for group, found in zip([Group(6, within), Group(3, without), Group(4)], together, strict=True):
        [alone] = groups_of(model, trie, prompts, [group])
        assert torch.equal(found.items, alone.items) and torch.equal(found.codes, alone.codes)
        torch.testing.assert_close(found.scores, alone.scores, atol=1e-5, rtol=1e-5)


def test_what_lies_within_prefixes_and_what_does_not_is_the_catalogue_but_for_what_is_masked():
    _, table, trie, _ = world()
    masked = torch.zeros(2, N, dtype=torch.bool)
    masked[0, [2, 4]] = masked[1, [0, 1, 19]] = True
    prefixes = [torch.from_numpy(np.unique(table[rows, :2], axis=0)) for rows in ([2, 9], [1, 6])]
    leaves = trie.places.long().expand(2, -1)
    for mask in (cells_of(masked), cells_of_free(~masked)):
        within, without = (allowed.alive(trie.levels, leaves) for allowed in parted(trie, prefixes, mask))
        for user, codes in enumerate(prefixes):
            below = (torch.from_numpy(table[:, None, :2]) == codes[None]).all(2).any(1)
            assert torch.equal(within[user], below & ~masked[user])
            assert torch.equal(without[user], ~below & ~masked[user])


def cells_of_free(free):
    return ItemMask(*free.nonzero(as_tuple=True), tuple(free.shape), free=True)


def test_nothing_is_read_for_beams_that_can_lead_nowhere(monkeypatch):
    model, table, trie, prompts = world()
    nothing = torch.zeros(0, dtype=torch.int64)
    prefixes = [torch.from_numpy(table[rows][:, :2]) for rows in ([0, 3], [1], [2])]
    within, _ = parted(trie, prefixes, ItemMask(nothing, nothing, (3, N)))
    reader, widths = reader_of(model, 64), []
    step = reader.step
    monkeypatch.setattr(
        reader, "step", lambda at, tokens, parent: widths.append(tokens.shape[1]) or step(at, tokens, parent)
    )
    with torch.no_grad():
        hidden, at = reader.prompts(*prompt_batch(prompts, pad=0))
        [found] = search_groups(Search(model, reader, trie, TOKENS, "level"), hidden, at, [Group(12, within)])
    assert max(widths) <= 2, "the widest user has two prefixes"
    assert found.items.shape == (3, 12) and (found.items[1] >= 0).sum() == (table[:, :2] == table[1, :2]).all(1).sum()
