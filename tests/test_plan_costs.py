"""Formulas of the plan on a backbone small enough to do by hand, against the trie itself, and against the products that
benchmarks time one by one."""

import importlib
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from recbole_think.decoding.trie import SidTrie
from recbole_think.plan.backbones import BACKBONES, Backbone
from recbole_think.plan.building import naming, trie_bytes, trie_nodes
from recbole_think.plan.costs import Inference, Pace, Step, learning_flops

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
TOY = Backbone(4, 8, 2, 2, 1, 2, 10)  # d 4, f 8, L 2, H 2, J 1, h 2, V 10: w 144, c 16, W 288, k 8


def test_weights_of_a_toy_are_counted_by_hand():
    assert TOY.layer_weights == 4 * 4 + 4 * 2 + 4 * 2 + 4 * 4 + 3 * 4 * 8 == 144
    assert (TOY.key_value_weights, TOY.weights, TOY.parameters) == (16, 288, 328)
    assert TOY.cache_numbers == 2 * 2 * 1 * 2


@pytest.mark.parametrize(
    ("name", "parameters"), [("smollm2-135m", 134_515_008), ("qwen3-0.6b", 596e6), ("qwen3-1.7b", 1.72e9)]
)
def test_parameters_of_real_backbones_are_those_of_their_files(name, parameters):
    assert BACKBONES[name].parameters == pytest.approx(parameters, rel=2e-3)


def test_a_token_of_smollm2_keeps_23_kilobytes_in_bfloat16():
    assert Inference(BACKBONES["smollm2-135m"], 2).cache_bytes(1) == 23_040


def test_reading_a_prompt_is_counted_by_hand():
    step = Inference(TOY, 2).reading(users=5, tokens=3)
    first_layer = 2 * 144 * 3 + 4 * 4 * 3 * 3  # weights for three tokens; scores and sums of three by three
    last_layer = 2 * 16 * 3 + 2 * (144 - 16) + 4 * 4 * 3  # keys and values of three tokens, the rest of one
    assert step.flops == 5 * (first_layer + last_layer)
    assert step.bytes == 2 * (288 + 5 * 8 * 3)


def test_what_was_read_before_is_looked_at_and_not_read_again():
    count = Inference(TOY, 2)
    more = count.reading(1, tokens=3, before=7)
    assert more.flops - count.reading(1, tokens=3).flops == 4 * 4 * (3 + 1) * 7
    assert more.bytes - count.reading(1, tokens=3).bytes == 2 * 8 * 7


def test_every_beam_reads_one_token_and_all_share_the_prompt():
    step = Inference(TOY, 2).branching(users=5, each=3, seen=11, kept=13)
    assert step.flops == 5 * 3 * (2 * 288 + 4 * 2 * 4 * 11)
    assert step.bytes == 2 * (288 + 5 * 8 * 13)


def test_there_are_never_more_beams_than_prefixes():
    count = Inference(TOY, 2)
    first, second, third = count.searching(users=1, rows=2, beams=6, seen=9, kept=10, sizes=[3, 3, 3])
    assert first == count.head(2, 3)
    assert second == count.branching(1, 2 * 3, 10, 10 + 6) + count.head(6, 3)
    assert third == count.branching(1, 2 * 6, 11, 10 + 2 * 12) + count.head(12, 3)


def test_a_step_takes_its_operations_its_bytes_or_its_launch_whichever_is_longest():
    pace = Pace(flops_per_s=10, bytes_per_s=100, step_s=0.5)
    assert pace.seconds([Step(20, 100), Step(10, 300), Step(1, 1)]) == 2 + 3 + 0.5


def test_learning_takes_six_operations_a_weight_and_token_and_half_of_a_rows_attention():
    assert learning_flops(TOY, tokens=7, row_tokens=0, head_rows=10) == 7 * 6 * (288 + 40)
    of_attention = learning_flops(TOY, 7, 5, 0) - learning_flops(TOY, 7, 0, 0)
    assert of_attention == 7 * 3 * (4 * 2 * 4 * 5) / 2


def test_operations_are_those_of_the_products_that_benchmarks_time(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    floor = importlib.import_module("floor")
    model = replace(BACKBONES["smollm2-135m"], num_hidden_layers=3)
    config = SimpleNamespace(**vars(model), head_dim=model.head_size)
    count = Inference(model, 4)

    def flops(products):
        return sum(one.flops for one in products)

    assert count.reading(5, 40).flops == flops(floor.prompt_step(config, [40] * 5))
    branch = count.branching(5, 6, seen=50, kept=50) + count.head(30, 256)
    assert branch.flops == flops(floor.branch_step(config, 5, 6, 50, 256))
    thoughts = count.sampling(5, prompt=40, thoughts=4, tokens=9, words=300)
    steps = floor.sampling_steps(config, [40] * 5, 4, 9, 300)
    assert [step.flops for step in thoughts] == [flops(step) for step in steps]


def test_a_trie_of_one_level_is_counted_by_hand():
    assert trie_nodes(7, 100, 1) == [1, 7]
    assert trie_bytes(7, 100, 1) == 8 * 7 + 2 * 7 + 4 * 2


@pytest.mark.parametrize("items", [500, 20_000, 200_000])
def test_a_trie_of_random_codes_takes_the_bytes_that_are_planned(items):
    flat = np.random.default_rng(0).choice(64**4, items, replace=False)
    table = np.stack([flat // 64 ** (3 - level) % 64 for level in range(4)], axis=1)
    assert trie_bytes(items, 64, 4) == pytest.approx(SidTrie(torch.from_numpy(table)).nbytes, rel=0.01)


def test_naming_compares_every_item_with_every_centre_of_every_level():
    assert naming(items=10, vector_size=3, size=4, levels=2) == (2 * 10 * 3 * 4 * 2, 4 * 10 * 3)
