"""The plan on paper: formulas on worlds small enough to do by hand, against the trie itself, and against the products
that benchmarks time one by one."""

import importlib
import json
import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from recbole_think.artifacts import write_json
from recbole_think.decoding.trie import SidTrie
from recbole_think.errors import InputError
from recbole_think.plan.__main__ import main, of_run, plan
from recbole_think.plan.assumptions import Assumptions, assumed
from recbole_think.plan.backbones import BACKBONES, Backbone
from recbole_think.plan.building import naming, stage_flops, trie_bytes, trie_nodes
from recbole_think.plan.costs import Inference, Pace, Step, learning_flops
from recbole_think.plan.crowd import Crowd
from recbole_think.plan.lines import spoken

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
TOY = Backbone(4, 8, 2, 2, 1, 2, 10)  # d 4, f 8, L 2, H 2, J 1, h 2, V 10: w 144, c 16, W 288, k 8


def value(sections, section, name):
    return next(line.value for line in sections[section] if line.name == name)


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


def test_the_recommendation_stage_reads_the_codes_of_every_history():
    tokens, flops, _ = stage_flops(Assumptions(users=1000, history=20, levels=4, epochs=2))["recommendation"]
    assert tokens == 2 * 1000 * 20 * 4
    assert flops == learning_flops(BACKBONES["smollm2-135m"], tokens, 1024, 256)


def test_gpu_hours_are_operations_over_the_rate_that_is_reached():
    found = plan(Assumptions(flops_share=0.5))
    flops = value(found, "Making codes", "encoding texts")
    assert value(found, "Making codes", "encoding texts, time") == pytest.approx(flops / (989e12 * 0.5) / 3600)


def test_twice_the_users_are_twice_the_store_the_thinking_and_the_requests():
    one, two = plan(Assumptions(users=10**8)), plan(Assumptions(users=2 * 10**8))
    for section, name in (
        ("The store", "store, all copies"),
        ("The store", "written"),
        ("Thinking ahead", "a refresh"),
        ("Answering", "requests at peak"),
        ("Answering", "prompt kept, at peak"),
        ("Prompts kept", "kept for everybody"),
        ("The network", "events a day"),
        ("Learning", "recommendation, time"),
    ):
        assert value(two, section, name) == pytest.approx(2 * value(one, section, name)), name
    assert value(two, "The catalogue", "trie") == value(one, "The catalogue", "trie")
    assert value(one, "The store", "store, all copies") == 3 * value(one, "The store", "store, one copy")


def test_twice_the_items_are_twice_the_table_and_nothing_more_for_a_user():
    one, two = plan(Assumptions(items=10**7)), plan(Assumptions(items=2 * 10**7))
    assert value(two, "The catalogue", "table of codes") == 2 * value(one, "The catalogue", "table of codes")
    assert value(two, "The store", "record of a user") == value(one, "The store", "record of a user")


@pytest.mark.parametrize(
    ("section", "name", "changes"),
    [
        ("Thinking ahead", "a user, step by step the longer", {"thoughts": 6}),
        ("Thinking ahead", "a user, step by step the longer", {"thought_tokens": 64}),
        ("Thinking ahead", "a user, step by step the longer", {"history": 100}),
        ("Thinking ahead", "a user, step by step the longer", {"prefixes": 40}),
        ("Thinking ahead", "a user, step by step the longer", {"backbone": "qwen3-0.6b"}),
        ("Thinking ahead", "a user, step by step the longer", {"gpu": "a100"}),
        ("Answering", "prompt read anew, a batch", {"beams": 200}),
        ("The store", "record of a user", {"prefixes": 21}),
        ("Memory while learning", "in all, not in shards", {"batch_tokens": 32768}),
    ],
)
def test_more_work_costs_more(section, name, changes):
    assert value(plan(Assumptions(**changes)), section, name) > value(plan(Assumptions()), section, name)


def test_a_record_is_counted_by_hand():
    given = Assumptions(thoughts=2, thought_tokens=3, prefixes=4, prefix_levels=2, record_overhead_bytes=5)
    assert Crowd(given).record_bytes() == 2 * (3 * 4 + 4 * (2 * 2 + 4)) + 5


def test_of_two_days_users_who_came_on_either_are_thought_for():
    given = Assumptions(users=100, active_share=0.5, refresh_days=2)
    assert Crowd(given).changed() == 75


def test_a_batch_that_thinks_fits_the_memory_that_is_used():
    crowd = Crowd(Assumptions())
    room = 80e9 * 0.9 - crowd.weights_bytes
    one = crowd.thought_bytes(2)
    assert crowd.thinking_batch() * one <= room < (crowd.thinking_batch() + 1) * one


def test_every_number_is_finite_and_says_its_formula():
    for given in (Assumptions(), Assumptions(items=1, users=1), Assumptions(gpu="cpu-avx2", backbone="qwen3-4b")):
        for lines in plan(given).values():
            assert all(math.isfinite(line.value) and line.value >= 0 and line.formula for line in lines)


def test_the_command_prints_every_assumption_and_every_section(capsys):
    assert main(["--items=1e8", "--users=1e9"]) == 0
    told = capsys.readouterr().out
    assert "items:                       100,000,000" in told and "busy_share" in told and "NVIDIA H100" in told
    assert all(f"\n{section}\n" in told for section in plan(Assumptions()))


def test_the_command_gives_json(capsys):
    assert main(["--items", "1e6", "--users=5", "--levels=3", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["assumptions"]["items"], told["assumptions"]["levels"]) == (1_000_000, 3)
    assert {"name", "value", "unit", "formula"} == set(told["plan"]["The store"][0])


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("--items=-5", "items must be 1 to"),
        ("--items=0", "items must be 1 to"),
        ("--users=many", "must be a number, got 'many'"),
        ("--users=nan", "users must be 1 to"),
        ("--users=inf", "users must be 1 to"),
        ("--items=1.5", "must be a whole number, got 1.5"),
        ("--levels=2", "2 levels of 256 codes name 65,536 items at most"),
        ("--levels=1e9", "levels must be 1 to 16"),
        ("--active_share=0", "active_share is a share above 0 and at most 1"),
        ("--flops_share=1.5", "flops_share is a share above 0 and at most 1"),
        ("--gpu=h10", "did you mean h100?"),
        ("--backbone=llama", "unknown backbone 'llama'"),
        ("--layers=31", "smollm2-135m has 30"),
        ("--prefix_levels=4", "leaves nothing to find online"),
        ("--fresh_items=51", "fresh_items=51 is more than history=50"),
        ("--itmes=3", "did you mean --items?"),
        ("--from=nowhere", "is no run folder of OneRecThink"),
    ],
)
def test_what_cannot_be_planned_ends_with_two_and_says_why(word, says, capsys):
    assert main([word]) == 2
    told = capsys.readouterr()
    assert says in told.err and told.out == ""


def run_folder(place, backbone):
    decode = {"thoughts": 3, "thought_tokens": 16, "num_beams": 40}
    config = {"backbone": {"name": backbone, "layers": 2}, "prompts": {"max_history": 20}, "decode": decode}
    (place / "itemic").mkdir()
    write_json(place / "config.json", config)
    write_json(place / "itemic" / "facts.json", {"health": {"levels": [{}, {}, {}]}})
    return place


def test_a_run_folder_settles_what_it_was_made_with_and_words_of_the_command_go_first(tmp_path, capsys):
    folder = run_folder(tmp_path, "smollm2-135m")
    found = assumed({**of_run(folder), "items": "1e6"})
    assert (found.layers, found.history, found.levels, found.thoughts, found.beams) == (2, 20, 3, 3, 40)
    assert main([f"--from={folder}", "--items=1e6", "--history=30", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)["assumptions"]
    assert (told["history"], told["thought_tokens"]) == (30, 16)


def test_a_run_of_a_backbone_without_sizes_is_refused(tmp_path):
    with pytest.raises(InputError, match="backbone 'tiny', which has no sizes here"):
        of_run(run_folder(tmp_path, "tiny"))


@pytest.mark.parametrize(
    ("number", "unit", "text"),
    [
        (1.1e9, "B", "1.1 GB"),
        (999, "B", "999 B"),
        (1234.5, "GPU h", "1,234 GPU h"),
        (0.013, "s", "0.013 s"),
        (0, "B", "0 B"),
    ],
)
def test_numbers_are_written_as_people_read_them(number, unit, text):
    assert spoken(number, unit) == text


def test_a_picture_has_a_dot_for_every_point_and_puts_equal_seconds_on_the_planned_line(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    drawn = importlib.import_module("scale_picture").picture(
        {"users": [{"x": 10, "seconds": 2.0, "predicted_s": 2.0}, {"x": 1000, "seconds": 8.0, "predicted_s": 4.0}]}
    )
    line = drawn.split('<polyline points="')[1].split('"')[0].split(" ")
    dots = [dot.split('"')[0:4:2] for dot in drawn.split("<g ")[1].split('<circle cx="')[1:]]
    assert len(dots) == 2 and line[0] == ",".join(dots[0]) and line[1] != ",".join(dots[1])
