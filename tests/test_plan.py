"""The plan on paper: its sections, its command, and what it refuses; formulas are in test_plan_costs.py."""

import importlib
import json
import math
from pathlib import Path

import numpy as np
import pytest

from recbole_think.artifacts import write_json
from recbole_think.errors import InputError
from recbole_think.itemic.codes import Codes
from recbole_think.plan.__main__ import main, of_run, plan
from recbole_think.plan.assumptions import Assumptions, assumed
from recbole_think.plan.backbones import BACKBONES
from recbole_think.plan.building import stage_flops
from recbole_think.plan.costs import learning_flops
from recbole_think.plan.crowd import Crowd
from recbole_think.plan.lines import spoken

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


def value(sections, section, name):
    return next(line.value for line in sections[section] if line.name == name)


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
        ("--memory_share=0.001", "h100 has no room for the weights of smollm2-135m"),
        ("--serving_batch=1e6", "h100 has no room for a batch of serving_batch=1,000,000 users"),
        ("--thoughts=1e5", "h100 has no room for the thoughts of one user"),
    ],
)
def test_what_cannot_be_planned_ends_with_two_and_says_why(word, says, capsys):
    assert main([word]) == 2
    told = capsys.readouterr()
    assert says in told.err and told.out == ""


def run_folder(place, backbone):
    decode = {"thoughts": 3, "thought_tokens": 16, "thought_beams": 5, "num_beams": 40}
    config = {"backbone": {"name": backbone, "layers": 2}, "prompts": {"max_history": 20}, "decode": decode}
    (place / "itemic").mkdir()
    write_json(place / "config.json", config)
    Codes(np.arange(9).reshape(3, 3) % 100, (100, 100, 100)).save(place / "itemic" / "codes.safetensors")
    return place


def test_a_run_folder_settles_what_it_was_made_with_and_words_of_the_command_go_first(tmp_path, capsys):
    folder = run_folder(tmp_path, "smollm2-135m")
    found = assumed(of_run(folder))
    assert (found.layers, found.history, found.thoughts, found.prefixes, found.beams) == (2, 20, 3, 5, 40)
    assert (found.items, found.levels, found.size, found.prefix_levels) == (3, 3, 100, 2)
    assert main([f"--from={folder}", "--items=1e6", "--history=30", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)["assumptions"]
    assert (told["history"], told["thought_tokens"], told["levels"]) == (30, 16, 3)
    assert main([f"--from={folder}", "--items=1000001", "--json"]) == 0
    said = capsys.readouterr()
    assert "3 levels of 100 codes cannot name 1000001 items" in said.err
    assert json.loads(said.out)["assumptions"]["levels"] == 4


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
