import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional

from recbole_think.corpus.histories import from_pairs
from recbole_think.corpus.items import ItemText
from recbole_think.decoding.trie import SidTrie
from recbole_think.errors import InputError
from recbole_think.prompts.alignment import GeneralText
from recbole_think.prompts.batching import Row, packed_batch
from recbole_think.prompts.material import Material
from recbole_think.prompts.options import TASKS, AlignmentOptions
from recbole_think.prompts.tasks import Example
from recbole_think.stages import alignment
from recbole_think.stages.adapters import adapted
from recbole_think.stages.alignment import (
    MultiTask,
    TokenWarmup,
    general_perplexity,
    held_out_batches,
    held_out_score,
)
from recbole_think.stages.checkpoints import last_checkpoint
from recbole_think.stages.loss import perplexity, token_loss
from recbole_think.stages.options import MultiTaskOptions, WarmupOptions
from recbole_think.stages.quality import describe, judge, search
from recbole_think.stages.stage import Context, run_stages
from recbole_think.stages.training import freeze_words
from tests.small import taught

SIZES = (4, 8)
COLOURS = ("red", "green", "blue", "grey")
N, USERS = 32, 24
TABLE = np.stack([np.arange(N) // 8, np.arange(N) % 8], axis=1)  # the first code is the colour
ITEMS = [ItemText(f"thing {n % 8}", {"class": COLOURS[n // 8]}) for n in range(N)]
EXACT = {"precision": "float32", "checkpoints": 0, "validations": 1, "tokens_per_batch": 400, "row_tokens": 100}


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def world(tmp_path):
    model, vocabulary = taught(TABLE, SIZES, seed=5)
    users = np.repeat(np.arange(1, USERS + 1), 6)
    items = np.concatenate([(start + np.arange(6)) % N + 1 for start in range(USERS)])
    histories = from_pairs(users, items, USERS + 1)
    general = [GeneralText(f"the box number {n} of the thing") for n in range(8)]
    options = AlignmentOptions(held_out=0.2, description_tokens=16)
    material = Material(vocabulary, histories, ITEMS, [None] * USERS, general, options, 5, seed=3)
    context = Context(
        folder=tmp_path, model=model, vocabulary=vocabulary, histories=histories,
        validate=lambda users, think: 0.0, seed=3,
        facts={"data_fingerprint": "colours"}, scalar=lambda *_: None, show_progress=False,
    )  # fmt: skip
    return context, material


def weights(model) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in model.named_parameters()}


def changed(model, before) -> set[str]:
    return {name for name, value in model.named_parameters() if not torch.equal(value, before[name])}


def warmup(material, figures=None, **more):
    options = WarmupOptions(**{"tokens": 1_500, **EXACT, **more})
    return TokenWarmup(options, lambda: material, lambda model: figures or {})


def multi_task(material, figures=None, **more):
    options = MultiTaskOptions(**{"tokens": 2_000, **EXACT, **more})
    return MultiTask(options, lambda: material, lambda model: figures or {})


def plain(ids, supervised) -> Example:
    return Example(np.array(ids), np.array(supervised), plain=True)


def test_a_plain_token_is_predicted_out_of_all_words_and_codes(world):
    context, _ = world
    model, code = context.model, context.vocabulary.first + 1
    ids = [5, 9, code, 7]
    batch = packed_batch([Row([plain(ids, [False, True, True, True])])], 0)
    logits = model(torch.tensor([ids])).logits[0]
    by_hand = functional.cross_entropy(logits[:-1], torch.tensor(ids[1:]))
    assert float(token_loss(model, batch, context.vocabulary.code_tokens, 0.0)) == pytest.approx(
        float(by_hand), abs=1e-5
    )


def test_plain_tokens_and_recommended_codes_count_alike_in_one_batch(world):
    context, _ = world
    model, tokens = context.model, context.vocabulary.code_tokens
    code = int(tokens[0][1])
    words = plain([5, 9, 7], [False, True, True])
    item = Example(np.array([5, 9, code]), np.array([False, False, True]))
    model.requires_grad_(False)
    alone = [float(token_loss(model, packed_batch([Row([e])], 0), tokens, 0.0)) for e in (words, item)]
    both = float(token_loss(model, packed_batch([Row([words]), Row([item])], 0), tokens, 0.0))
    assert both == pytest.approx((2 * alone[0] + alone[1]) / 3, abs=1e-5)
    logits = model(torch.tensor([[5, 9]])).logits[0, -1]
    assert alone[1] == pytest.approx(float(functional.cross_entropy(logits[tokens[0]], torch.tensor(1))), abs=1e-5)


def test_perplexity_is_the_exponential_of_the_mean_cross_entropy_with_or_without_codes(world):
    context, _ = world
    model, first = context.model, context.vocabulary.first
    ids = [5, 9, 7, 11]
    batch = packed_batch([Row([plain(ids, [False, True, True, True])])], 0)
    logits = model(torch.tensor([ids])).logits[0, :-1]
    wanted = torch.tensor(ids[1:])
    everything, words = (functional.cross_entropy(part, wanted) for part in (logits, logits[:, :first]))
    assert perplexity(model, [batch, batch], words_alone=False) == pytest.approx(math.exp(everything), rel=1e-5)
    assert perplexity(model, [batch], words_alone=True) == pytest.approx(math.exp(words), rel=1e-5)


def test_general_perplexity_reads_the_held_out_texts_alone(world):
    context, material = world
    found = held_out_batches(material, "general")
    text = material.vocabulary.tokenizer.decode(torch.cat([batch["input_ids"].flatten() for batch in found]))
    for place, general in enumerate(material.general):
        assert (general.answer in text) == (place in material.held_texts)
    assert general_perplexity(context.model, material, True) == perplexity(context.model, found, True)


def test_warm_up_teaches_the_new_rows_and_nothing_else(world):
    context, material = world
    before = weights(context.model)
    [row] = run_stages([warmup(material)], context)
    assert changed(context.model, before) == {"model.embed_tokens.rows"}
    assert row["tokens"] >= 1_500 and row["steps"] >= 3


def test_frozen_weights_get_no_gradient_in_warm_up(world):
    context, material = world
    stage = warmup(material)
    seen = set()
    context.model.get_decoder().layers[0].mlp.down_proj.register_full_backward_hook(
        lambda module, *_: seen.add(module.weight.grad is None and not module.weight.requires_grad)
    )
    stage.run(context)
    assert seen == {True}


def test_multi_task_leaves_words_as_they_are_unless_asked(world):
    context, material = world
    before = weights(context.model)
    run_stages([multi_task(material)], context)
    found = changed(context.model, before)
    assert "model.embed_tokens.text.weight" not in found
    assert {"model.embed_tokens.rows", "model.layers.1.mlp.up_proj.weight"} <= found


def test_words_may_be_taught_too(world):
    context, material = world
    before = weights(context.model)
    run_stages([multi_task(material, train_words=True)], context)
    assert "model.embed_tokens.text.weight" in changed(context.model, before)


def test_adapters_learn_and_leave_a_plain_model_behind(world):
    context, material = world
    before, kind = weights(context.model), type(context.model.get_decoder().layers[0].mlp.up_proj)
    run_stages([multi_task(material, lora_rank=4)], context)
    assert set(weights(context.model)) == set(before), "the names of a model without adapters"
    assert type(context.model.get_decoder().layers[0].mlp.up_proj) is kind
    difference = context.model.get_decoder().layers[0].mlp.up_proj.weight - before["model.layers.0.mlp.up_proj.weight"]
    assert 1 <= int(torch.linalg.matrix_rank(difference.detach(), rtol=1e-3)) <= 4, (
        "what was merged has the rank asked for"
    )
    again = taught(TABLE, SIZES, seed=5)[0]
    trained = weights(context.model)
    context.model = again
    [row] = run_stages([multi_task(material, lora_rank=4)], context)
    assert row["skipped"]
    for name, value in again.named_parameters():
        assert torch.equal(value, trained[name]), name


def test_while_adapted_only_small_matrices_rows_and_norms_learn(world):
    context, _ = world
    freeze_words(context.model)
    with adapted(context.model, 2):
        learning = [name for name, value in context.model.named_parameters() if value.requires_grad]
        assert any("lora_A" in name for name in learning) and "model.embed_tokens.rows" in learning
        assert not any(name.endswith("base_layer.weight") for name in learning)
        assert any("norm" in name for name in learning)
    assert not any("lora" in name for name, _ in context.model.named_parameters())
    assert not context.model.get_input_embeddings().text.weight.requires_grad


@pytest.mark.parametrize("rank", [0, 2])
def test_an_interrupted_integration_goes_on_to_the_same_weights(rank, world, tmp_path, monkeypatch):
    context, material = world
    more = {"lora_rank": rank, "validations": 2, "checkpoints": 4, "dropout": 0.1}
    [row] = run_stages([multi_task(material, **more)], context)
    wanted = weights(context.model)

    real, calls = alignment.held_out_score, []

    def cut_off(*args):
        score = real(*args)

        def scored():
            calls.append(1)
            if len(calls) == 2:
                raise KeyboardInterrupt
            return score()

        return scored

    monkeypatch.setattr(alignment, "held_out_score", cut_off)
    context.folder, context.model = tmp_path / "again", taught(TABLE, SIZES, seed=5)[0]
    with pytest.raises(KeyboardInterrupt):
        run_stages([multi_task(material, **more)], context)
    assert last_checkpoint(tmp_path / "again" / "multi_task")
    context.model = taught(TABLE, SIZES, seed=5)[0]
    [resumed] = run_stages([multi_task(material, **more)], context)
    assert resumed["digest"] == row["digest"]
    for name, value in context.model.named_parameters():
        assert torch.equal(value, wanted[name]), name


def test_the_weights_with_the_lowest_held_out_loss_are_kept(world):
    context, material = world
    [row] = run_stages([multi_task(material, validations=3)], context)
    options = MultiTaskOptions(**EXACT)
    score = held_out_score(context, material, options.shares, options, last_only=False)
    assert score() == pytest.approx(row["best_score"], abs=1e-5)


def test_the_held_out_loss_weighs_tasks_by_share(world):
    context, material = world
    options = MultiTaskOptions(**EXACT)

    def score(**shares):
        return held_out_score(context, material, shares, options, False)()

    one, other = score(captioning=1.0), score(general=1.0)
    assert one != other
    assert score(captioning=1.0, general=3.0) == pytest.approx((one + 3 * other) / 4, abs=1e-5)


def test_what_the_codes_tell_is_said_of_items_never_described(world):
    context, material = world
    stage = multi_task(
        material, tokens=60_000, learning_rate=2e-3, row_learning_rate=1e-2, dropout=0.0,
        sequential=0.0, persona=0.0, captioning=1.0, general=0.0,
    )  # fmt: skip
    run_stages([stage], context)
    context.model.eval()
    held = sorted(material.held_items)
    captions = describe(context.model, material, held)
    right = [COLOURS[(item - 1) // 8] in caption for item, caption in zip(held, captions, strict=True)]
    assert np.mean(right) >= 0.8, captions


def one_task(material, task, **more):
    """Integration of one task alone, over titles that tell both codes."""
    shares = dict.fromkeys(TASKS, 0.0) | {task: 1.0}
    titled = replace(material, items=[ItemText(f"{COLOURS[n // 8]} thing {n % 8}") for n in range(N)])
    return multi_task(titled, row_learning_rate=1e-2, dropout=0.0, **shares, **more), titled


@pytest.mark.slow
def test_what_a_text_speaks_of_is_learnt_to_be_named(world):
    context, material = world
    stage, _ = one_task(material, "naming", tokens=100_000, learning_rate=2e-3)
    [row] = run_stages([stage], context)
    chance = (math.log(SIZES[0]) + math.log(SIZES[1])) / 2
    assert row["loss"] < chance / 4, "of a code, in nats"


@pytest.mark.slow
def test_the_title_of_what_comes_next_is_learnt_for_people_never_read(world):
    context, material = world
    with torch.no_grad():
        context.model.get_decoder().norm.weight.mul_(8)  # words are frozen and small: so logits can be large early
    stage, titled = one_task(material, "next_title", tokens=60_000, learning_rate=4e-3)
    score = held_out_score(context, titled, {"next_title": 1.0}, stage.options, False)
    before = score()
    run_stages([stage], context)
    assert score() > before / 3


def test_the_judge_compares_with_a_random_item_and_with_chance(world):
    context, material = world

    def encode(texts):
        return np.array([[1.0, 0.0] if text.startswith("thing") else [0.0, 1.0] for text in texts])

    trie = SidTrie(torch.from_numpy(TABLE))
    figures = judge(context.model, material, trie, encode)
    assert figures["items"] == len(material.held_items)
    assert figures["retrieval_chance@10"] == 10 / N
    assert len(figures["captions"]) == 5 and figures["captions"][0]["title"].startswith("thing")
    hits = search(context.model, material, trie, sorted(material.held_items))
    assert figures["retrieval_hit@10"] == pytest.approx(np.mean(hits), abs=1e-4)
    said_thing = np.mean(
        [c.startswith("thing") for c in describe(context.model, material, sorted(material.held_items))]
    )
    assert figures["similarity"] == pytest.approx(said_thing, abs=1e-4)


def test_a_caption_names_no_item_by_its_tokens(world):
    context, material = world
    with torch.no_grad():
        context.model.get_input_embeddings().rows.mul_(50)  # codes would win every argmax
    assert not any("<a_" in caption or "<b_" in caption for caption in describe(context.model, material, [1, 2, 3]))


def test_a_search_finds_every_item_when_the_list_is_as_long_as_the_catalogue(world):
    context, material = world
    few = SidTrie(torch.from_numpy(TABLE[:9]))
    assert search(context.model, material, few, [1, 5, 9]) == [True] * 3


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"persona": -0.1}, "multi_task.persona"),
        ({"tokens": 0}, "multi_task.tokens"),
        ({"lora_rank": -1}, "multi_task.lora_rank"),
        ({"naming": -0.1}, "multi_task.naming"),
        (dict.fromkeys(("sequential", "persona", "captioning", "general"), 0.0), "all 0"),
    ],
)  # fmt: skip
def test_shares_that_make_no_sense_are_refused(wrong, said):
    with pytest.raises(InputError, match=said):
        MultiTaskOptions(**wrong)
