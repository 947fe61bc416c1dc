"""Answers: equal to the direct model's where nothing guides them, within what was thought of where something does."""

import numpy as np
import pytest
import torch

from recbole_think.errors import InputError
from recbole_think.serving.ahead import Ahead, AheadOptions, Rationale
from recbole_think.serving.direct import Question
from recbole_think.serving.online import OnlineOptions, Recommender, Visitor, window
from recbole_think.serving.store import Entry, StoreError, open_store
from recbole_think.serving.think_ahead import think_ahead
from tests.toy import N_ITEMS, title, walks


def recommender(served, store, **options) -> Recommender:
    return Recommender(served, store, OnlineOptions(**options))


def names(answer) -> list[str]:
    return [item.item for item in answer.items]


def direct(served, history, k=10, masked=True):
    """What the run's own model answers without a thought."""
    model = served.model
    mask = torch.zeros(1, N_ITEMS, dtype=torch.bool)
    if masked:
        mask[0, torch.from_numpy(np.unique(history)) - 1] = True
    model.judged = False
    try:
        [found] = model.recommend([history], mask)
    finally:
        model.judged = None
    return [served.catalogue.names[item - 1] for item in found[:k]]


def known(store, user, prefixes, scores=None):
    """Let a store know a thought with these first codes."""
    version = store.begin({"by": "hand"}, 1)
    text = Ahead([Rationale("red", [[code] for code in prefixes], scores or [-1.0] * len(prefixes))], 1, 5.0).text
    store.put(version.number, {user: Entry("s", text)})
    store.finish(version.number, 0)


def firsts(served, answer) -> list[int]:
    numbers = [served.catalogue.number[name] for name in names(answer)]
    return served.catalogue.codes.table[np.array(numbers) - 1, 0].tolist()


def test_who_was_not_thought_about_gets_the_direct_models_own_list(served, store):
    answers = recommender(served, store).answer([Visitor("u1", k=7), Visitor("u2", k=3)])
    for user, answer, k in zip(("u1", "u2"), answers, (7, 3), strict=True):
        assert names(answer) == direct(served, served.history(user), k)
        assert answer.source == "direct" and answer.events == len(walks()[user])
        assert [item.title for item in answer.items] == [title(name) for name in names(answer)]
        assert all(item.thought is None and item.score < 0 for item in answer.items)


def test_events_that_were_kept_and_a_session_go_on_from_the_history(served, store):
    store.append("u1", ["p3"])
    [answer] = recommender(served, store).answer([Visitor("u1", ("p9", "unheard of"), k=5)])
    history = np.concatenate([served.history("u1"), served.catalogue.known(["p3", "p9"])])
    assert names(answer) == direct(served, history, 5)
    assert answer.unknown == 1 and answer.events == len(walks()["u1"]) + 2
    assert not {"p3", "p9"} & set(names(answer))


def test_somebody_unknown_is_answered_after_this_session_alone(served, store):
    [answer, nobody] = recommender(served, store).answer(
        [Visitor("stranger", ("p4", "p5"), k=4), Visitor(None, ("p4", "p5"), k=4)]
    )
    assert answer.source == nobody.source == "session" and names(answer) == names(nobody)
    assert names(answer) == direct(served, served.catalogue.known(["p4", "p5"]), 4)


def test_who_has_no_history_at_all_gets_what_is_popular(served, store):
    [answer, other] = recommender(served, store).answer([Visitor("stranger", k=6), Visitor(None, ("zz",), k=2)])
    counts = np.bincount(served.model.histories.items, minlength=N_ITEMS + 1)
    sizes = [counts[served.catalogue.number[name]] for name in names(answer)]
    assert answer.source == other.source == "popular" and sizes == sorted(counts[1:], reverse=True)[:6]
    assert other.unknown == 1 and names(other) == names(answer)[:2]


def test_lists_stay_within_what_was_thought_of(served, store):
    known(store, "u1", [2, 4])
    [answer] = recommender(served, store, free=0.0).answer([Visitor("u1", k=4, mask_history=False)])
    assert answer.source == "ahead" and set(firsts(served, answer)) <= {2, 4} and len(answer.items) == 4
    whole = direct(served, served.history("u1"), N_ITEMS, masked=False)
    of_prefixes = [
        name for name in whole if served.catalogue.codes.table[served.catalogue.number[name] - 1, 0] in (2, 4)
    ]
    assert names(answer)[: len(of_prefixes)] == of_prefixes[:4]
    assert answer.rationales == ["red"] and answer.thought_at == 5.0 and {item.thought for item in answer.items} == {0}


def test_so_many_places_as_are_free_go_to_the_best_of_the_rest_if_those_are_better(served, store):
    whole = recommender(served, store).answer([Visitor("u1", k=N_ITEMS - len(set(walks()["u1"])))])[0]
    best = names(whole)
    last = served.catalogue.codes.table[served.catalogue.number[best[-1]] - 1, 0]
    codes = sorted({int(last), int(served.catalogue.codes.table[served.catalogue.number[best[-2]] - 1, 0])})
    known(store, "u1", codes)
    inside = [name for name in best if served.catalogue.codes.table[served.catalogue.number[name] - 1, 0] in codes]
    outside = [name for name in best if name not in inside]
    k = min(4, len(inside))
    [answer] = recommender(served, store, free=0.5).answer([Visitor("u1", k=k)])
    free = round(0.5 * k)
    expected = sorted([*inside[:k], *outside[:free]], key=best.index)[:k]
    assert names(answer) == expected and set(names(answer)) & set(outside)
    assert [item.thought is None for item in answer.items] == [name in outside for name in expected]


def test_thoughts_that_could_not_fill_a_list_are_passed_over(served, store):
    known(store, "u1", [2])
    size = int((served.catalogue.codes.table[:, 0] == 2).sum())
    made = recommender(served, store)
    [fits, short] = made.answer(
        [Visitor("u1", k=size, mask_history=False), Visitor("u1", k=size + 1, mask_history=False)]
    )
    assert fits.source == "ahead" and short.source == "direct" and len(short.items) == size + 1


def test_who_has_met_everything_gets_an_empty_list_and_unmasked_a_full_one(served, store):
    store.append("u1", list(served.catalogue.names))
    [answer, unmasked] = recommender(served, store).answer([Visitor("u1"), Visitor("u1", mask_history=False)])
    assert answer.items == [] and len(unmasked.items) == 10


def test_answers_are_the_same_in_any_company_and_however_often_they_are_asked_for(served, thought):
    made = recommender(served, thought)
    everybody = [Visitor(f"u{number}", ("p4",) * (number % 3), k=5) for number in range(12)] + [
        Visitor(None, ("p7",), k=5)
    ]
    together, again = made.answer(everybody), made.answer(everybody)
    assert made.cache.hits >= 12
    for one, first, second in zip(everybody, together, again, strict=True):
        [alone] = recommender(served, thought, cache_mib=0).answer([one])
        for other in (first, second):
            assert names(other) == names(alone) and other.source == alone.source
            assert [item.score for item in other.items] == pytest.approx([item.score for item in alone.items], abs=1e-4)


def test_nobody_is_answered_with_another_ones_history(served, thought, tmp_path):
    nobody = open_store(str(tmp_path / "nobody"))
    (
        thought.append("1", ["p1"]),
        thought.append("01", ["p2"]),
        thought.append("u1 ", ["p3"]),
        thought.append("u1", ["p9"]),
    )
    made = recommender(served, thought)
    odd = ["1", "01", "u1 ", "u1", "U1", "u1\u200b"]
    for _ in range(2):  # the second time from kept prompts
        answers = made.answer([Visitor(user, k=5) for user in odd])
        assert [answer.events for answer in answers] == [1, 1, 1, len(walks()["u1"]) + 1, 0, 0]
        for user, answer in zip(odd[:4], answers, strict=False):
            stored = [event.item for event in thought.events([user])[user]]
            history = [served.catalogue.names[item - 1] for item in served.history(user)] + stored
            alone = Recommender(served, nobody, OnlineOptions(free=1.0)).answer([Visitor(None, tuple(history), 5)])[0]
            if answer.source == "ahead":  # guided by their own thoughts alone
                own = Ahead.of(thought.get([user])[user])
                assert answer.rationales == [one.words for one in own.rationales] and user == "u1"
            else:
                assert names(answer) == names(alone)


def test_without_the_store_answers_come_from_what_the_data_set_knows(served, thought, monkeypatch):
    made = recommender(served, thought)

    def gone(users):
        raise StoreError("gone")

    monkeypatch.setattr(thought, "events", gone)
    [answer, session] = made.answer([Visitor("u1", k=5), Visitor("u1", ("p9",), k=5)])
    assert names(answer) == direct(served, served.history("u1"), 5) and answer.source == "direct"
    assert session.events == len(walks()["u1"]) + 1 and made.store_failures == 1


def test_the_cache_is_bounded_and_counts_what_it_drops(served, store):
    made = recommender(served, store)
    made.answer([Visitor("u1")])
    each = made.cache.held
    made.cache.most = 3 * each + each // 2
    for number in range(2, 12):
        made.answer([Visitor(f"u{number}")])
        assert made.cache.held <= made.cache.most
    assert made.cache.evicted > 0 and len(made.cache) <= 4
    hits = made.cache.hits
    made.answer([Visitor("u11")]), made.answer([Visitor("u1")])
    assert made.cache.hits == hits + 1, "the last one asked about is kept, the first is not"
    made.use(made.model, made.model.frame(), 1)
    assert made.cache.held == len(made.cache) == 0


@pytest.mark.parametrize("base", [0, 3, 30])
def test_a_prompt_mostly_grows_and_forgets_a_block_at_once(base):
    most, block = 10, 4
    begins = [window(base, base + events, most, block) for events in range(30)]
    assert begins[0] == max(0, base - most), "without fresh events it is the evaluation's"
    for events, first in enumerate(begins):
        shown = base + events - first
        assert min(base + events, most) <= shown < most + block
    steps = np.diff(begins)
    assert set(steps.tolist()) <= {0, block} and (steps > 0).sum() >= 4


def test_questions_with_and_without_prefixes_are_answered_in_their_order(served, store):
    made = recommender(served, store)
    none = np.zeros(0, dtype=np.int64)
    prompts = [made.model.prompt(np.array(items)) for items in ([1, 2], [3], [4, 5, 6], [7])]
    guided = [Question(prompt, none, torch.tensor([[number]])) for number, prompt in enumerate(prompts)]
    free = [Question(prompt, none, None) for prompt in prompts]
    mixed = [guided[0], free[1], guided[2], free[3]]
    found = made.model.lists(mixed, 0.0, [2, 3, 2, 3])
    alone = [made.model.lists([one], 0.0, [length])[0] for one, length in zip(mixed, [2, 3, 2, 3], strict=True)]
    assert [one.items for one in found] == [one.items for one in alone]


@pytest.mark.parametrize("wrong", [{"free": 1.5}, {"free": -0.1}, {"num_beams": -1}, {"cache_mib": -1}, {"block": 0}])
def test_options_that_make_no_sense_are_refused(wrong):
    with pytest.raises(InputError, match=f"--{next(iter(wrong))}"):
        OnlineOptions(**wrong)


def test_thinking_ahead_about_everything_leaves_the_direct_list(served, store):
    """Prefixes of all items guide to nothing in particular."""
    think_ahead(served, store, AheadOptions(thoughts=1, prefixes=99), show_progress=False)
    [answer] = recommender(served, store, free=0.0).answer([Visitor("u3", k=8)])
    assert answer.source == "ahead" and names(answer) == direct(served, served.history("u3"), 8)
