"""The direct model learns what happened, answers only if a canary says so, and there is a way back."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from recbole_think.errors import InputError
from recbole_think.resume import weights_digest
from recbole_think.serving.lesson import Fresh, Lesson, fresh_of, guard, is_canary, questions_of, windows
from recbole_think.serving.live import Live
from recbole_think.serving.online import OnlineOptions, Recommender, Visitor
from recbole_think.serving.run import ServedRun
from recbole_think.serving.store import Event, open_store
from recbole_think.serving.update import main
from recbole_think.serving.updater import UpdateOptions, Updater, alone
from recbole_think.serving.watching import Watcher
from tests.toy import walks

QUICK = UpdateOptions(
    epochs=6, learning_rate=3e-3, row_learning_rate=1e-2, precision="float32", least=3, canary=0.3, tolerance=9.0,
    dropout=0.0, hidden_dropout=0.0, attention_dropout=0.0, guard_users=20,
)  # fmt: skip


@pytest.fixture
def fresh_run(thinking_run):
    """The run with weights that nobody has taught since."""
    return ServedRun(thinking_run, "all")


@pytest.fixture
def live(fresh_run, tmp_path):
    return Live(tmp_path / "live", weights_digest(fresh_run.model))


def everybody_goes_to(store, item):
    """A fashion: all users go to the same place, again and again."""
    for user in sorted(walks()):
        store.append(user, [item, "p0", item])


def test_fresh_events_are_those_after_the_last_that_was_taken_up_whatever_came_since(served):
    def events(user, **items):
        return [Event(int(number[1:]), user, item) for number, item in items.items()]

    told = {
        "u1": events("u1", n4="p1", n5="p3", n7="p9", n9="p3"), "new": events("new", n6="p4", n8="p5"),
        "odd": events("odd", n7="zz"), "old": events("old", n2="p3"),
    }  # fmt: skip
    people = {one.user: one for one in fresh_of(served, told, 4, 8)}
    number = served.catalogue.number
    assert set(people) == {"u1", "new"} and people["u1"].new == 2
    assert people["u1"].history[-3:].tolist() == [number["p1"], number["p3"], number["p9"]]
    assert people["new"].history.tolist() == [number["p4"], number["p5"]]
    assert people["new"].new == 1, "nothing comes before the first event of all"


def test_of_many_fresh_events_every_one_is_taught_once():
    one = Fresh("u", np.arange(1, 31), 25)
    found = list(windows(one, 6))
    taught = [item for window, new in reversed(found) for item in window[len(window) - new :]]
    assert taught == list(range(6, 31)) and all(len(window) <= 7 for window, _ in found)


def test_every_fresh_event_is_asked_for_after_what_came_before_it():
    found = questions_of([Fresh("u", np.array([1, 2, 3, 4]), 2), Fresh("v", np.array([7, 8]), 1)], 10)
    assert [history.tolist() for history in found.histories] == [[1, 2], [1, 2, 3], [7]]
    assert found.targets.tolist() == [3, 4, 8]
    assert len(questions_of([Fresh("u", np.arange(1, 9), 5)], 3).targets) == 3


def test_a_lesson_asks_for_fresh_events_alone_and_reads_old_windows_beside_them(served):
    vocabulary, max_history = served.model.vocabulary, served.model.ranker.max_history
    people = [Fresh("u1", np.array([1, 2, 3, 4]), 2)]
    lesson = Lesson(people, served.histories, (), max_history, 0.0, 1, 96, 256, 0)
    [batch] = lesson.plan(vocabulary).batches
    [example] = [example for row in batch for example in row.examples]
    taught = example.input_ids[example.supervised]
    assert taught.tolist() == vocabulary.item_tokens[[2, 3]].reshape(-1).tolist()
    beside = Lesson(people, served.histories, (), max_history, 5.0, 2, 96, 256, 0)
    examples = [example for batch in beside.plan(vocabulary).batches for row in batch for example in row.examples]
    assert len(examples) == 2 * 6


def test_those_who_judge_are_not_read_beside_the_lesson(served):
    judge = served.users["u1"]
    others = [user for user in served.users.values() if user != judge]
    people = [Fresh("new", np.array([1, 2, 3]), 1)]
    lesson = Lesson(people, served.histories, others, served.model.ranker.max_history, 99.0, 1, 96, 256, 0)
    rows = [row for batch in lesson.plan(served.model.vocabulary).batches for row in batch]
    read = {int(token) for row in rows for example in row.examples for token in example.input_ids}
    theirs = served.model.vocabulary.item_tokens[np.append(served.histories.of(judge), [1, 2, 3]) - 1]
    assert {token for token in read if token >= served.model.vocabulary.first} <= set(theirs.reshape(-1).tolist())
    assert guard(served.histories, 3, 0).users <= set(served.users.values())


def test_canaries_are_the_same_users_every_time_and_about_as_many_as_asked_for():
    users = [f"u{number}" for number in range(2000)]
    chosen = [user for user in users if is_canary(user, 0.1)]
    assert 140 < len(chosen) < 260 and all(is_canary(user, 0.2) for user in chosen)


def test_the_guard_asks_for_the_last_old_event_of_a_fixed_sample(served):
    one, other = guard(served.histories, 5, 3), guard(served.histories, 5, 3)
    assert one.targets.tolist() == other.targets.tolist() and len(one.targets) == 5
    users = [u for u in served.users.values()]
    lasts = {tuple(served.histories.of(user).tolist()) for user in users}
    for history, target in zip(one.histories, one.targets, strict=True):
        assert (*history.tolist(), target) in lasts


def test_a_fashion_is_learnt_and_answers_once_the_canary_agrees(fresh_run, store, live):
    everybody_goes_to(store, "p17")
    before = weights_digest(fresh_run.model)
    told = Updater(fresh_run, store, live, QUICK, show_progress=False).update()
    assert told["accepted"] and told["nats_gained"]["canary"] > 0.3 and live.current() == told["version"] == 1
    facts = live.facts(1)
    assert live.until() == told["events"] == 3 * len(walks())
    assert facts["parent"] == 0 and facts["events"] == [1, 3 * len(walks())]
    assert weights_digest(fresh_run.model) != before and not (live.folder / "attempt").exists()
    again = Updater(fresh_run, store, live, QUICK, show_progress=False).update()
    assert again["version"] is None and again["events"] == 0 and "are needed" in again["why"]


def test_what_was_taken_back_is_not_learnt_again_but_what_comes_after_is(fresh_run, store, live):
    everybody_goes_to(store, "p17")
    Updater(fresh_run, store, live, QUICK, show_progress=False).update()
    assert live.roll_back() == 1 and live.current() == 0
    told = Updater(fresh_run, store, live, QUICK, show_progress=False).update()
    assert told["version"] is None and told["events"] == 0 and live.current() == 0
    everybody_goes_to(store, "p5")
    told = Updater(fresh_run, store, live, QUICK, show_progress=False).update()
    assert told["accepted"] and told["events"] == 3 * len(walks()) and live.facts(told["version"])["parent"] == 0


def test_there_is_nothing_before_the_runs_own_weights(live):
    with pytest.raises(InputError, match="nothing to go back to"):
        live.roll_back()


def test_a_state_that_is_damaged_is_refused(live):
    live.folder.mkdir()
    (live.folder / "current.json").write_text('{"run": "x"}')
    with pytest.raises(InputError, match="is damaged"):
        live.current()


def test_what_the_canary_does_not_like_does_not_answer(fresh_run, store, live, monkeypatch):
    everybody_goes_to(store, "p17")
    updater = Updater(fresh_run, store, live, QUICK, show_progress=False)
    monkeypatch.setattr(updater, "_teach", lambda people, without, version: _spoil(fresh_run))
    told = updater.update()
    assert not told["accepted"] and told["answers"] == live.current() == 0 and told["version"] == 1
    with pytest.raises(InputError, match="did not pass its canary"):
        live.switch(1)
    assert Updater(fresh_run, store, live, QUICK, show_progress=False).update()["events"] == 0, "it is left out"
    everybody_goes_to(store, "p17")
    again = Updater(fresh_run, store, live, QUICK, show_progress=False).update()
    assert again["accepted"] and live.facts(again["version"])["parent"] == 0, "begins with the weights that answer"


def test_what_cannot_be_learnt_at_all_is_left_out(fresh_run, store, live, monkeypatch):
    everybody_goes_to(store, "p17")
    updater = Updater(fresh_run, store, live, QUICK, show_progress=False)

    def runaway(*_):
        raise FloatingPointError("the loss is nan")

    monkeypatch.setattr(updater, "_teach", runaway)
    told = updater.update()
    assert not told["accepted"] and live.current() == 0 and told["why"] == "the loss is nan: left out"
    assert live.until() == told["events"] > 0


def test_events_of_one_user_without_end_do_not_stop_what_comes_after_them(fresh_run, store, live):
    store.append("flood", ["p1"] * 40)
    everybody_goes_to(store, "p17")
    few = replace(QUICK, most=40)
    updater = Updater(fresh_run, store, live, few, show_progress=False)
    first = updater.update()
    assert first["version"] is None and "left out" in first["why"] and live.until() == 40
    assert updater.update()["version"] == 1 and live.until() == 80


def _spoil(served):
    with torch.no_grad():
        for value in served.model.language_model.parameters():
            value.add_(torch.randn(value.shape, generator=torch.Generator().manual_seed(1)))


def test_old_events_may_not_be_forgotten(fresh_run, store, live, monkeypatch):
    everybody_goes_to(store, "p17")
    strict = replace(QUICK, tolerance=0.0, replay=0.0, epochs=30)
    told = Updater(fresh_run, store, live, strict, show_progress=False).update()
    assert told["nats_gained"]["canary"] > 0 > told["nats_gained"]["guard"] and not told["accepted"]


def test_few_events_wait_for_more(fresh_run, store, live):
    store.append("u1", ["p3", "p9"])
    told = Updater(fresh_run, store, live, QUICK, show_progress=False).update()
    assert told["version"] is None and told["events"] == 2 and live.numbers() == []


def test_a_server_takes_up_a_version_and_gives_it_back(fresh_run, store, live, thinking_run):
    everybody_goes_to(store, "p17")
    Updater(fresh_run, store, live, QUICK, show_progress=False).update()
    made = Recommender(ServedRun(thinking_run, "all"), store, OnlineOptions())
    asked_for = [Visitor("u1", k=9, mask_history=False)]
    scores = {}
    watcher = Watcher(made, live, 1.0)
    for number in (0, 1, 0):
        live.switch(number)
        before = made.version
        assert watcher.look() == (number != before) and not watcher.look() and made.version == number
        [answer] = made.answer(asked_for)
        assert answer.model == number
        found = {item.item: item.score for item in answer.items}
        scores.setdefault(number, found)
        assert found == pytest.approx(scores[number])
    place = {number: list(scores[number]).index("p17") for number in (0, 1) if "p17" in scores[number]}
    assert place[1] <= place.get(0, 9) and scores[0] != scores[1]


def test_a_version_that_cannot_be_read_leaves_the_model_as_it_is(fresh_run, store, live, thinking_run):
    everybody_goes_to(store, "p17")
    Updater(fresh_run, store, live, QUICK, show_progress=False).update()
    (live.folder / "000001" / "weights.safetensors").write_bytes(b"half")
    made = Recommender(ServedRun(thinking_run, "all"), store)
    with pytest.raises(InputError, match="damaged"):
        Watcher(made, live, 1.0).look()
    assert made.version == 0 and made.answer([Visitor("u1")])[0].items


def test_versions_of_another_run_are_refused(live):
    live.folder.mkdir()
    Live(live.folder, "other").switch(0)
    with pytest.raises(InputError, match="another run's direct model"):
        live.current()


def test_old_versions_go_but_for_the_one_that_answers_and_its_parent(live):
    for number in range(1, 7):
        live.add({"x": torch.zeros(1)}, {"parent": max(0, number - 1), "accepted": True})
    live.switch(2)
    live.drop_old(2)
    assert live.numbers() == [1, 2, 5, 6]
    with pytest.raises(InputError, match="has no version 4"):
        live.switch(4)


def test_two_updates_at_once_are_one_too_many(tmp_path):
    with (
        alone(tmp_path / "live"),
        pytest.raises(InputError, match="another process is updating"),
        alone(tmp_path / "live"),
    ):
        pass


def test_the_command_updates_shows_and_rolls_back(thinking_run, tmp_path, capsys):
    store = open_store(str(tmp_path / "store"))
    everybody_goes_to(store, "p17")
    store.close()
    words = ["--run", str(thinking_run), "--store", str(tmp_path / "store"), "--live", str(tmp_path / "live")]
    assert main([*words, "--learning_rate", "3e-3", "--least", "3", "--canary", "0.3", "--tolerance", "9"]) == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert told["accepted"] and told["answers"] == 1
    assert main([*words, "--show"]) == 0
    shown = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert shown["answers"] == 1 and shown["versions"][0]["canary_events"] >= 3
    assert main([*words, "--roll_back"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == {"answers": 0, "before": 1}


@pytest.mark.parametrize(
    "wrong", [{"canary": 0.0}, {"canary": 1.0}, {"epochs": 0}, {"replay": -1.0}, {"tolerance": -0.1}]
)
def test_options_that_make_no_sense_are_refused(wrong):
    with pytest.raises(InputError, match=f"update.{next(iter(wrong))}"):
        UpdateOptions(**wrong)
