"""What is thought ahead, and into what store it goes."""

import json
import sqlite3
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from recbole_think.corpus.items import ItemText
from recbole_think.decoding.options import DecodeOptions
from recbole_think.decoding.reading import reader_of
from recbole_think.errors import InputError
from recbole_think.itemic.codes import Codes
from recbole_think.prompts.batching import prompt_batch
from recbole_think.prompts.thinking import given_thought
from recbole_think.ranker import Ranker
from recbole_think.serving.ahead import Ahead, AheadOptions, Rationale, Thinker, stamp
from recbole_think.serving.run import ServedRun, default_store
from recbole_think.serving.store import open_store
from recbole_think.serving.think_ahead import main, of_shard, read_shard, think_ahead
from tests.small import distinct_codes, item_texts, taught
from tests.toy import N_ITEMS, walks

HISTORY = np.array([3, 4, 5])


def ahead_of(thinker, history=HISTORY) -> Ahead:
    return Ahead.of(thinker.entries([history])[0].text)


def test_prefixes_are_the_likeliest_first_codes_after_each_thought(served):
    """Against the first step of a search that nothing cuts short."""
    thinker, ranker = Thinker(served.model, AheadOptions(thoughts=3, prefixes=4), False), served.model.ranker
    options = DecodeOptions(think=True, thoughts=3, thought_tokens=12, thought_beams=4, normalize="level")
    thoughts = ranker.think(ranker.prompts([HISTORY]), lambda rows: None, options, torch.float32)[0]
    found = ahead_of(thinker)
    assert len(found.rationales) == 3 and found.events == 3
    for one, thought in zip(found.rationales, thoughts, strict=True):
        told = given_thought(ranker.prompts([HISTORY])[0], thought.ids, ranker.vocabulary)
        with torch.no_grad():
            reader = reader_of(ranker.language_model, len(told) + 4)
            hidden, _ = reader.prompts(*prompt_batch([told], 0))
            logits = ranker.language_model.get_output_embeddings().code_logits(
                hidden[0, 0], ranker.vocabulary.code_tokens[0]
            )
        likely = logits.log_softmax(0)
        used = np.unique(ranker.codes.table[:, 0])
        best = used[np.argsort(-likely.numpy()[used], kind="stable")][:4]
        assert [prefix[0] for prefix in one.prefixes] == best.tolist()
        assert one.scores == pytest.approx(likely[torch.from_numpy(best)].tolist(), abs=1e-4)


def test_prefixes_of_two_codes_are_the_best_of_all_there_are():
    """Items of three codes, every pair of first codes scored by reading it."""
    sizes, table = (3, 4, 2), distinct_codes(14, (3, 4, 2), 2)
    language_model, vocabulary = taught(table, sizes)
    words = torch.from_numpy(np.arange(vocabulary.marks[1] - 3, vocabulary.marks[1] + 1))
    ranker = Ranker(language_model, vocabulary, Codes(table, sizes), 5, words)
    model = SimpleNamespace(
        ranker=ranker, options={"decode": DecodeOptions(thought_tokens=3)}, open_engine=lambda engine: None,
        dtype=lambda: torch.float32, vocabulary=vocabulary, items=[ItemText(text) for text in item_texts(14)],
    )  # fmt: skip
    [one] = ahead_of(Thinker(model, AheadOptions(thoughts=1, prefixes=99), False)).rationales
    assert [len(prefix) for prefix in one.prefixes] == [2] * len(np.unique(table[:, :2], axis=0))
    options = DecodeOptions(think=True, thoughts=1, thought_tokens=3, thought_beams=1)
    [[thought]] = ranker.think(ranker.prompts([HISTORY]), lambda rows: None, options, torch.float32)
    told = given_thought(ranker.prompts([HISTORY])[0], thought.ids, vocabulary)
    scores = {}
    with torch.no_grad():
        for first, second in np.unique(table[:, :2], axis=0).tolist():
            ids = torch.tensor([[*told.tolist(), int(vocabulary.code_tokens[0][first])]])
            logits = language_model(ids).logits[0]
            of_level = [logits[-2, vocabulary.code_tokens[0]], logits[-1, vocabulary.code_tokens[1]]]
            likely = [level.log_softmax(0) for level in of_level]
            scores[first, second] = float(likely[0][first] + likely[1][second])
    best = sorted(scores, key=lambda pair: -scores[pair])
    assert [tuple(prefix) for prefix in one.prefixes] == best
    assert one.scores == pytest.approx([scores[pair] for pair in best], abs=1e-4)


def test_the_whole_catalogue_of_first_codes_holds_all_the_probability_there_is(served):
    everything = Thinker(served.model, AheadOptions(thoughts=1, prefixes=99), False)
    found = ahead_of(everything).rationales[0]
    used = np.unique(served.catalogue.codes.table[:, 0])
    assert sorted(prefix[0] for prefix in found.prefixes) == used.tolist()
    assert np.exp(found.scores).sum() <= 1 + 1e-4


def test_a_first_code_of_which_everything_was_met_is_no_use_where_lists_leave_that_out(served):
    table = served.catalogue.codes.table[:, 0]
    code = int(table[0])
    history = np.concatenate([np.flatnonzero(table == code) + 1, np.flatnonzero(table != code)[:1] + 1])
    named = {
        masked: {tuple(p) for one in ahead_of(Thinker(served.model, AheadOptions(2, 99), masked), history).rationales
                 for p in one.prefixes}
        for masked in (True, False)
    }  # fmt: skip
    assert named[False] - named[True] == {(code,)}
    assert ahead_of(Thinker(served.model, AheadOptions(2, 99), True), np.arange(1, N_ITEMS + 1)).rationales


def test_of_several_thoughts_the_one_that_finds_an_item_likeliest_speaks_for_it():
    found = Ahead([Rationale("a", [[1, 2], [3, 4]], [-2.0, -1.0]), Rationale("b", [[1, 2]], [-0.5])], 3, 0.0)
    assert found.leading_to([1, 2, 9]) == 1 and found.leading_to([3, 4, 0]) == 0 and found.leading_to([1, 3, 0]) is None
    assert found.codes().tolist() == [[1, 2], [3, 4]] and Ahead.of(found.text) == found


def test_everybody_is_thought_about_once_and_again_when_something_is_new(served, store):
    options = AheadOptions(thoughts=2, prefixes=3)
    first = think_ahead(served, store, options, show_progress=False)
    assert first["thought"] == first["users"] == len(walks()) and first["current"]
    texts = store.get(sorted(walks()))
    assert len(texts) == len(walks())
    again = think_ahead(served, store, options, show_progress=False)
    assert again["thought"] == 0 and again["version"] == first["version"]
    store.append("u1", ["p3", "nobody sells this"]), store.append("newcomer", ["p5"]), store.append("ghost", ["zz"])
    third = think_ahead(served, store, options, show_progress=False)
    assert third["thought"] == 2 and third["version"] == first["version"]
    now = store.get([*sorted(walks()), "newcomer", "ghost"])
    assert {user for user in now if now[user] != texts.get(user)} == {"u1", "newcomer"}
    assert Ahead.of(now["newcomer"]).events == 1 and Ahead.of(now["u1"]).events == len(walks()["u1"]) + 1


def test_a_clock_that_goes_backwards_changes_nothing_but_the_times_shown(served, store, monkeypatch):
    clock = iter(range(10**6, 0, -1000))
    monkeypatch.setattr(time, "time", lambda: float(next(clock)))
    options = AheadOptions(thoughts=2, prefixes=3)
    think_ahead(served, store, options, show_progress=False)
    [first] = store.get(["u1"]).values()
    store.append("u1", ["p3"]), store.append("u1", ["p9"])
    assert [event.item for event in store.events(["u1"])["u1"]] == ["p3", "p9"] and [
        e.item for e in store.since(0, 9)
    ] == ["p3", "p9"]
    assert think_ahead(served, store, options, show_progress=False)["thought"] == 1
    [second] = store.get(["u1"]).values()
    assert Ahead.of(second).events == len(walks()["u1"]) + 2 and Ahead.of(second).at < Ahead.of(first).at
    assert think_ahead(served, store, options, show_progress=False)["thought"] == 0


def test_other_options_make_a_version_beside_the_one_that_is_read(served, store):
    first = think_ahead(served, store, AheadOptions(thoughts=2, prefixes=3), show_progress=False)
    second = think_ahead(served, store, AheadOptions(thoughts=2, prefixes=2), show_progress=False)
    assert second["version"] > first["version"] and second["thought"] == len(walks())
    assert store.current().facts["prefixes"] == 2 and store.sweep() == 0


def test_a_job_that_was_cut_off_thinks_about_nobody_twice_and_says_the_same(served, store, tmp_path, monkeypatch):
    options, cut_off = AheadOptions(thoughts=2, prefixes=3), Thinker.entries
    monkeypatch.setattr("recbole_think.serving.think_ahead.TOGETHER", 8)
    small = DecodeOptions(**{**served.model.options["decode"].__dict__, "tokens_per_batch": 400})
    monkeypatch.setitem(served.model.options, "decode", small)
    calls = []

    def dying(self, histories):
        calls.append(len(histories))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return cut_off(self, histories)

    monkeypatch.setattr(Thinker, "entries", dying)
    with pytest.raises(KeyboardInterrupt):
        think_ahead(served, store, options, show_progress=False)
    assert store.current() is None and store.get(sorted(walks())) == {}
    done = sum(calls[:2])
    rest = think_ahead(served, store, options, show_progress=False)
    assert rest["thought"] == len(walks()) - done and rest["current"]
    whole = open_store(str(tmp_path / "whole.sqlite3"))
    think_ahead(served, whole, options, show_progress=False)

    def rationales(of):
        return {user: Ahead.of(text).rationales for user, text in of.get(sorted(walks())).items()}

    cut, uncut = rationales(store), rationales(whole)
    assert cut.keys() == uncut.keys()
    for user in cut:
        for one, other in zip(cut[user], uncut[user], strict=True):
            assert one.words == other.words and one.prefixes == other.prefixes
            assert one.scores == pytest.approx(other.scores, abs=1e-4)
    whole.close()


def test_shards_make_together_what_one_job_makes_and_the_last_one_switches(served, store):
    options = AheadOptions(thoughts=2, prefixes=3)
    told = [think_ahead(served, store, options, shard, 3, show_progress=False) for shard in (2, 0, 1)]
    assert [one["current"] for one in told] == [False, False, True]
    assert sum(one["thought"] for one in told) == len(walks()) and len({one["version"] for one in told}) == 1
    assert len(store.get(sorted(walks()))) == len(walks())


def test_everybody_is_in_one_shard_whoever_else_there_is():
    users = {f"u{number}" for number in range(50)}
    parts = [of_shard(users, shard, 4) for shard in range(4)]
    assert sorted(user for part in parts for user in part) == sorted(users) and all(parts)
    assert of_shard({"u1", "u2"}, 0, 4) == [user for user in parts[0] if user in ("u1", "u2")]


@pytest.mark.parametrize("text", ["2/2", "1", "a/2", "0/0", "-1/2"])
def test_a_shard_that_is_none_is_refused(text):
    with pytest.raises(InputError, match="--shard"):
        read_shard(text)


def test_a_stamp_is_of_a_history_in_its_order():
    assert stamp(np.array([1, 2])) == stamp(np.array([1, 2], dtype=np.int32)) != stamp(np.array([2, 1]))


def test_a_store_of_another_catalogue_is_refused(served, store):
    store.claim({"catalogue": "another", "split": "all"})
    with pytest.raises(InputError, match="was made with catalogue='another'"):
        think_ahead(served, store, AheadOptions(), show_progress=False)


def test_histories_end_where_the_split_says(thinking_run, served):
    whole = walks()["u1"]
    for split, events in (("all", len(whole)), ("test", len(whole) - 1), ("valid", len(whole) - 2)):
        of_split = served if split == "all" else ServedRun(thinking_run, split)
        names = [of_split.catalogue.names[item - 1] for item in of_split.history("u1")]
        assert names == whole[:events]


def test_the_command_fills_the_store_of_the_run_and_says_what_it_did(thinking_run, capsys):
    assert main(["--run", str(thinking_run), "--thoughts", "2", "--prefixes", "2"]) == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert told["users"] == len(walks()) and told["current"]
    store = open_store(default_store(thinking_run))
    assert len(store.get(sorted(walks()))) == len(walks())
    store.close()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--run", "/nowhere"], "not a finished run"),
        (["--thoughts", "0"], "--thoughts must be at least 1"),
        (["--shard", "3/3"], "--shard counts from 0"),
        (["--store", "redis://127.0.0.1:1"], "is the server there"),
    ],
)
def test_what_cannot_be_done_ends_with_2_and_a_sentence(thinking_run, tmp_path, capsys, words, said):
    given = words if "--run" in words else ["--run", str(thinking_run), *words]
    assert main([*given, *([] if "--store" in words else ["--store", str(tmp_path / "s")])]) == 2
    assert said in capsys.readouterr().err


def test_two_jobs_on_one_store_are_one_too_many(thinking_run, tmp_path, capsys):
    store = open_store(str(tmp_path / "store"))
    with store.alone(0, 1):
        assert main(["--run", str(thinking_run), "--store", str(tmp_path / "store")]) == 2
    assert "another process is thinking ahead" in capsys.readouterr().err
    store.close()


SLOWLY = """
import sys, time
from recbole_think.serving import think_ahead as command
from recbole_think.serving.store import sqlite
command.cut = lambda lengths, *_: [[row] for row in range(len(lengths))]  # a user at a time
put = sqlite.SqliteStore.put
def slow(self, version, entries):
    put(self, version, entries)
    time.sleep(0.02)
sqlite.SqliteStore.put = slow
sys.exit(command.main(sys.argv[1:]))
"""


def test_a_job_that_is_killed_again_and_again_leaves_whole_users_and_gets_to_its_end(thinking_run, tmp_path):
    words = ["--run", str(thinking_run), "--store", str(tmp_path / "store"), "--thoughts", "3"]
    store, counts, dice = open_store(str(tmp_path / "store")), [0], np.random.default_rng(3)
    while len(counts) < 4 and store.current() is None:
        job = subprocess.Popen(
            [sys.executable, "-c", SLOWLY, *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        until, wanted = time.monotonic() + 120, counts[-1] + int(dice.integers(2, 8))
        while len(store.stamps(1, sorted(walks()))) < wanted and time.monotonic() < until and job.poll() is None:
            time.sleep(0.005)
        job.kill(), job.wait()
        with sqlite3.connect(tmp_path / "store") as inside:
            rows = inside.execute("select text from thoughts").fetchall()
        assert all(len(Ahead.of(text).rationales) == 3 for (text,) in rows), "whole or not at all"
        counts.append(len(rows))
    assert counts == sorted(counts) and len(set(counts)) == len(counts) and counts[-1] < len(walks())
    store.close()
    assert main(words) == 0
    store = open_store(str(tmp_path / "store"))
    assert len(store.get(sorted(walks()))) == len(walks())
    store.close()
