"""Both readers read what the model itself reads, for every family."""

import numpy as np
import pytest
import torch

from recbole_think.decoding.beam import beam_search
from recbole_think.decoding.reading import KNOWN, MaskedReader, PackedReader, reader_of
from recbole_think.decoding.trie import SidTrie
from recbole_think.errors import InputError
from recbole_think.prompts.batching import prompt_batch
from tests.small import FAMILIES, OTHERS, WORDS, backbone_of, distinct_codes, tokens_of_levels

READERS = {"packed": PackedReader, "masked": MaskedReader}


def prompts(lengths=(7, 2, 5), seed=0):
    dice = np.random.default_rng(seed)
    return [dice.integers(1, WORDS, length) for length in lengths]


@torch.no_grad()
def plain(model, sequence):
    """The model's own hidden state after a sequence."""
    ids = torch.tensor([[int(token) for token in sequence]])
    return model.get_decoder()(input_ids=ids).last_hidden_state[0, -1]


def pairs():
    return [(family, "packed") for family in FAMILIES] + [(family, "masked") for family in (*FAMILIES, *OTHERS)]


@torch.no_grad()
@pytest.mark.parametrize(("family", "kind"), pairs())
def test_branches_read_what_the_model_reads_as_one_plain_sequence(family, kind):
    model = backbone_of(family, WORDS)
    reader = READERS[kind](model)
    given = prompts()
    hidden, at = reader.prompts(*prompt_batch(given, 0))
    for user, prompt in enumerate(given):
        torch.testing.assert_close(hidden[user, 0], plain(model, prompt), atol=1e-4, rtol=1e-4)
    first = torch.tensor([[3, 9], [4, 4], [8, 1]])
    hidden, at = reader.step(at, first, torch.zeros(3, 2, dtype=torch.int64))
    second, parent = torch.tensor([[5, 6, 7], [1, 2, 3], [9, 8, 7]]), torch.tensor([[1, 0, 1], [0, 0, 1], [1, 1, 0]])
    hidden, at = reader.step(at, second, parent)
    for user, prompt in enumerate(given):
        for branch in range(3):
            said = [*prompt, first[user, parent[user, branch]], second[user, branch]]
            torch.testing.assert_close(hidden[user, branch], plain(model, said), atol=1e-4, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize(("family", "kind"), [("qwen3", "packed"), ("qwen3", "masked"), ("gemma3_text", "packed")])
def test_branches_go_off_from_branches_of_different_lengths(family, kind):
    model = backbone_of(family, WORDS)
    reader = READERS[kind](model)
    given = prompts((3, 6))
    _, at = reader.prompts(*prompt_batch(given, 0))
    thoughts = torch.from_numpy(np.random.default_rng(1).integers(1, WORDS, (2, 2, 20)))
    lengths = torch.tensor([[20, 1], [7, 12]])
    for place in range(20):
        parent = torch.zeros(2, 2, dtype=torch.int64) if place == 0 else None
        _, at = reader.step(at, thoughts[:, :, place], parent, place < lengths)
    at = reader.opened(at)
    first = torch.tensor([[3, 5], [6, 7], [8, 9], [1, 2]])  # two branches off each of four thoughts
    _, at = reader.step(at, first, torch.zeros(4, 2, dtype=torch.int64))
    hidden, _ = reader.step(at, torch.full((4, 2), 4), torch.tensor([[1, 0]] * 4))
    for row in range(4):
        user, thought = divmod(row, 2)
        for branch in range(2):
            own = thoughts[user, thought, : lengths[user, thought]].tolist()
            said = [*given[user], *own, first[row, 1 - branch], 4]
            torch.testing.assert_close(hidden[row, branch], plain(model, said), atol=1e-4, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("kind", READERS)
def test_a_place_can_be_gone_on_from_twice(kind):
    model = backbone_of("llama", WORDS)
    reader, origin = READERS[kind](model), torch.zeros(1, 1, dtype=torch.int64)
    _, root = reader.prompts(*prompt_batch(prompts((4,)), 0))
    once, deeper = reader.step(root, torch.tensor([[3]]), origin)
    reader.step(deeper, torch.tensor([[6]]), origin)
    reader.step(root, torch.tensor([[9]]), origin)
    again, _ = reader.step(root, torch.tensor([[3]]), origin)
    torch.testing.assert_close(once, again)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_known_family_is_walked_and_ranks_as_its_own_code_does(family, monkeypatch):
    sizes = (4, 4, 4)
    model = backbone_of(family, WORDS + sum(sizes), seed=1)
    trie = SidTrie(torch.from_numpy(distinct_codes(20, sizes)))
    given = (*prompt_batch(prompts(), 0), trie, tokens_of_levels(sizes), 6)
    assert isinstance(reader_of(model, 10), PackedReader) and family in KNOWN
    fast = beam_search(model, *given)
    monkeypatch.setattr("recbole_think.decoding.beam.reader_of", lambda model, _: MaskedReader(model))
    slow = beam_search(model, *given)
    assert torch.equal(fast.items, slow.items)
    torch.testing.assert_close(fast.scores, slow.scores, atol=1e-4, rtol=1e-4)


def test_adapters_on_the_layers_are_read_along():
    from peft import LoraConfig, get_peft_model

    model = backbone_of("llama", WORDS)
    adapted = get_peft_model(model, LoraConfig(r=4, target_modules=["q_proj", "down_proj"], init_lora_weights=False))
    base = adapted.get_base_model()
    given = prompts()
    with torch.no_grad():
        hidden, _ = reader_of(base, 10).prompts(*prompt_batch(given, 0))
    torch.testing.assert_close(hidden[0, 0], plain(base, given[0]), atol=1e-4, rtol=1e-4)


def test_the_fused_kernel_of_a_gpu_gives_the_same_as_the_plain_products_of_a_cpu():
    from recbole_think.decoding.attention import _padded, attend_prompts

    dice = torch.Generator().manual_seed(0)
    lengths = [300, 2, 130]  # longer and shorter than a block of queries
    queries = torch.randn(432, 4, 8, generator=dice)
    keys, values = torch.randn(2, 432, 2, 8, generator=dice)
    plain_products = attend_prompts(queries, keys, values, lengths, 0.3)
    torch.testing.assert_close(plain_products, _padded(queries, keys, values, lengths, 0.3), atol=1e-5, rtol=1e-5)


def test_a_prompt_longer_than_a_layer_looks_back_is_refused():
    model = backbone_of("gemma3_text", WORDS)
    with pytest.raises(InputError, match=r"65 tokens.*look back 64.*max_history"):
        reader_of(model, 65)


def test_a_backbone_that_caps_its_logits_is_refused():
    with pytest.raises(InputError, match="caps its logits"):
        reader_of(backbone_of("gemma2", WORDS), 10)


@torch.no_grad()
@pytest.mark.parametrize("beams", [2, 40])
def test_what_is_kept_grows_with_tokens_plus_beams(beams):
    model = backbone_of("llama", WORDS)
    reader = reader_of(model, 100)
    _, at = reader.prompts(*prompt_batch(prompts((50, 50)), 0))
    parent = torch.zeros(2, beams, dtype=torch.int64)
    for _ in range(3):
        _, at = reader.step(at, torch.ones(2, beams, dtype=torch.int64), parent)
    kept = sum(part.keys.shape[0] * part.keys.shape[2] for part in at.parts[0])
    assert kept == 2 * 50 + 2 * beams * 3
