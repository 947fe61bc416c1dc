"""Distillation from finished runs: teachers are asked with the very histories, and pupils come to agree with them."""

import json
import shutil
from itertools import pairwise

import numpy as np
import pytest
import torch

from recbole_think import load, run
from recbole_think.corpus.histories import Histories
from recbole_think.decoding.exact import score_items
from recbole_think.distillation import Teachers, taught_by
from recbole_think.errors import InputError
from recbole_think.headroom import headroom, main
from recbole_think.prompts.batching import prompt_batch
from recbole_think.stages.lessons import Lessons
from recbole_think.stages.options import DistillationOptions
from tests.toy import run_opened, settings, write_toy


@pytest.fixture(scope="module")
def teacher(toy_path, tmp_path_factory):
    folder = tmp_path_factory.mktemp("teacher") / "run"
    return run_opened(
        "SASRecAll", settings("SASRecAll", toy_path, folder, epochs=60, learning_rate=0.01, stopping_step=99)
    ), folder


def asked(folders, data, **more):
    options = DistillationOptions(tuple(folders), **{"items": 5, "repeats": True, **more})
    everything = np.arange(len(data.histories.items))
    return taught_by(Teachers(options, data.fingerprint), data.histories, everything, options.items, False)


def test_teachers_are_asked_with_the_history_before_each_event_and_nothing_of_it(teacher):
    opened, folder = teacher
    items, shares = asked([str(folder)], opened.data)
    model, histories = load(folder).model.cpu(), opened.data.histories
    for user in (1, 7, 30):
        begin = int(histories.starts[user])
        assert not shares[begin].any(), "nothing comes before a first event"
        for at in range(1, len(histories.of(user))):
            past = histories.of(user)[:at][-model.max_seq_length :]
            state = model.encode(torch.from_numpy(past.copy())[None])[0, -1]
            scores = state @ model.item_embedding.weight.T
            scores[0] = -torch.inf
            wanted = scores.softmax(0).topk(5)
            assert items[begin + at].tolist() == wanted.indices.tolist()
            np.testing.assert_allclose(shares[begin + at], wanted.values.detach().numpy(), rtol=1e-4)


def test_of_several_teachers_the_probabilities_are_averaged_and_a_temperature_evens_them(teacher):
    opened, folder = teacher
    alone = asked([str(folder)], opened.data)
    twice = asked([str(folder), str(folder)], opened.data)
    assert np.array_equal(alone[0], twice[0])
    np.testing.assert_allclose(alone[1], twice[1], rtol=1e-5)
    warm = asked([str(folder)], opened.data, temperatures=(5.0,))
    known = alone[1][:, 0] > 0
    assert (warm[1][known, 0] < alone[1][known, 0]).all() and np.array_equal(warm[0][:, 0], alone[0][:, 0])


def test_teachers_have_shares_in_what_they_say_together(teacher, toy_path, tmp_path):
    opened, folder = teacher
    run("CoOccurrence", "toy", config_dict=settings("CoOccurrence", toy_path, tmp_path / "pairs"))
    every = opened.data.histories.items.max()
    apart = [dense(*asked([one], opened.data, items=int(every))) for one in (str(folder), str(tmp_path / "pairs"))]
    both = dense(*asked([str(folder), str(tmp_path / "pairs")], opened.data, items=int(every), shares=(3, 1)))
    np.testing.assert_allclose(both, 0.75 * apart[0] + 0.25 * apart[1], atol=1e-6)


def dense(items, shares):
    found = np.zeros((len(items), items.max() + 1), dtype=np.float32)
    np.put_along_axis(found, items, shares, 1)
    return found


def test_pairs_counted_teach_their_shares(toy_path, tmp_path):
    opened = run_opened("CoOccurrence", settings("CoOccurrence", toy_path, tmp_path / "pairs", window=1, both=False))
    histories = opened.data.histories
    said = dense(*asked([str(tmp_path / "pairs")], opened.data, items=10**6))
    user = int(np.flatnonzero(np.diff(histories.starts) > 2)[0])
    last, at = histories.of(user)[1], int(histories.starts[user]) + 2
    after = [b for u in range(histories.n_users) for a, b in pairwise(histories.of(u).tolist()) if a == last]
    counted = np.bincount(after, minlength=said.shape[1]) / len(after)
    np.testing.assert_allclose(said[at], counted, atol=1e-4)


def test_what_a_history_holds_is_not_named_unless_things_are_bought_again(teacher):
    opened, folder = teacher
    items, _ = asked([str(folder)], opened.data, repeats=False)
    free, _ = asked([str(folder)], opened.data)
    histories = opened.data.histories
    repeated = 0
    for user in range(1, histories.n_users):
        for at in range(1, len(histories.of(user))):
            past, row = set(histories.of(user)[:at].tolist()), int(histories.starts[user]) + at
            assert not past & set(items[row].tolist())
            repeated += bool(past & set(free[row].tolist()))
    assert repeated, "this teacher would have named some"


def test_beyond_the_last_event_items_are_drawn_as_often_as_teachers_say_anew_each_epoch(teacher):
    opened, folder = teacher
    histories, codes = opened.data.histories, np.arange(1000)[:, None]
    options = DistillationOptions((str(folder),), items=3)
    teachers = Teachers(options, opened.data.fingerprint)
    lessons = Lessons(options, histories, codes, lambda *asked: taught_by(teachers, *asked, options.items, False))
    user = int(np.flatnonzero(np.diff(histories.starts) > 2)[0])
    drawn = []
    for epoch in range(400):
        longer, soft = lessons.of_epoch(np.random.default_rng(epoch))
        assert longer.of(user)[:-1].tolist() == histories.of(user).tolist()
        drawn.append(int(longer.of(user)[-1]))
    place, [told] = int(longer.starts[user + 1]) - 1, lessons.told
    said = dict(zip(told.items[place].tolist(), told.shares[place].tolist(), strict=True))
    assert set(drawn) <= set(said)
    for item, share in said.items():
        wanted = share / sum(said.values())
        assert abs(drawn.count(item) / 400 - wanted) < 4 * np.sqrt(wanted * (1 - wanted) / 400) + 1e-9
    window = soft(slice(place - 2, place + 1))
    assert window.weight.tolist() == [0.5, 1.0], "beyond, teachers alone are believed"
    assert window.target.tolist() == [[int(longer.of(user)[-2]) - 1], [drawn[-1] - 1]]
    model = load(folder).model.cpu()
    with torch.no_grad():
        state = model.encode(torch.from_numpy(histories.of(user)[-model.max_seq_length :].copy())[None])[0, -1]
        scores = state @ model.item_embedding.weight.T
    scores[torch.from_numpy(histories.of(user))] = scores[0] = -torch.inf
    assert told.items[place].tolist() == scores.topk(3).indices.tolist(), "after the whole history"


def test_a_history_may_go_on_by_several_items_and_teachers_are_asked_about_each():
    """Of a teacher who always names the item after the last one, every history goes on in steps of one."""
    histories = Histories(np.array([0, 0, 3, 4]), np.array([1, 2, 3, 7]))
    asked = []

    def ask(longer, places):
        asked.append(longer.items[places].tolist())
        before = longer.items[np.maximum(places - 1, 0)]
        return np.stack([before + 1, before + 2], 1), np.tile(np.float32([1, 0]), (len(places), 1))

    lessons = Lessons(DistillationOptions(beyond=3, paths=2), histories, np.arange(20)[:, None], ask)
    assert asked == [[1, 2, 3, 0, 7, 0], [0, 0], [0, 0], [0, 0], [0, 0]], "of what is new alone, for either path"
    for epoch in range(4):
        longer, soft = lessons.of_epoch(np.random.default_rng(epoch))
        assert longer.of(1).tolist() == [1, 2, 3, 4, 5, 6] and longer.of(2).tolist() == [7, 8, 9, 10]
        begin = int(longer.starts[1])
        assert soft(slice(begin, begin + 6)).weight.tolist() == [0.5, 0.5, 1, 1, 1]


def test_the_ways_a_history_goes_on_differ():
    histories = Histories(np.array([0, 0, 2]), np.array([1, 2]))

    def ask(longer, places):
        return np.tile(np.arange(1, 51), (len(places), 1)), np.full((len(places), 50), 0.02, dtype=np.float32)

    lessons = Lessons(DistillationOptions(beyond=2, paths=4), histories, np.arange(60)[:, None], ask)
    ways = {tuple(lessons.of_epoch(np.random.default_rng(epoch))[0].of(1)[:-1].tolist()) for epoch in range(60)}
    assert 2 <= len(ways) <= 4 and {way[:2] for way in ways} == {(1, 2)}


def cross_entropy(pupil, teacher):
    """Of the teacher's probabilities of all items under the pupil's, for the test users, in nats."""
    users = [f"u{number}" for number in range(40)]
    wanted = teacher.full_sort_scores(users, mask_history=False)[:, 1:].double().softmax(1)
    ranker, histories = pupil.model.ranker, [pupil._history(user, "test") for user in users]
    batch = prompt_batch(ranker.prompts(histories), ranker.vocabulary.tokenizer.pad_token_id)
    found = score_items(ranker.language_model, *batch, ranker.trie, ranker.vocabulary.code_tokens, "level")
    return float(-(wanted * found).sum(1).mean())


@pytest.mark.slow
def test_a_pupil_of_soft_labels_is_nearer_to_its_teacher_than_one_of_true_items_alone(teacher, toy_path, tmp_path):
    _, folder = teacher
    apart = {}
    for weight in (0.0, 0.5, 1.0):
        given = settings("OneRecThink", toy_path, tmp_path / str(weight), stages=["recommendation"])
        given["recommendation"] = {"epochs": 25, "validations": 1, "precision": "float32"}
        given["distillation"] = {"teachers": [str(folder)], "weight": weight, "repeats": True, "beyond": 0}
        run("OneRecThink", "toy", config_dict=given)
        apart[weight] = cross_entropy(load(tmp_path / str(weight)), load(folder))
    assert apart[1.0] < apart[0.5] < apart[0.0]
    found = headroom(str(tmp_path / "1.0"), show=False)
    of_teacher = json.loads((folder / "metrics.json").read_text())["test"]  # repeats named, nothing masked
    assert found["run"]["ndcg@10"] == pytest.approx(of_teacher["ndcg@10"], abs=1e-6)
    assert found["teachers together"] == found["run"]
    pupil = json.loads((tmp_path / "1.0" / "metrics.json").read_text())
    assert found["pupil, with what was met before"]["recall@10"] == pupil["test"]["recall@10"]
    assert main([str(folder)]) == 2, "nobody taught the teacher"
    kept = json.loads((tmp_path / "1.0" / "recommendation" / "facts.json").read_text())
    assert kept["made_from"]["distillation"]["teachers"], "which weights taught is known"


@pytest.mark.parametrize("fresh", [False, True])
def test_teachers_say_nothing_of_an_event_that_is_kept_for_rewards(teacher, toy_path, tmp_path, fresh):
    _, folder = teacher
    given = settings("OneRecThink", toy_path, tmp_path / "pupil", stages=["recommendation", "item_enhancement"])
    given["item_enhancement"] = {**given["item_enhancement"], "fresh": fresh}
    given["distillation"] = {"teachers": [str(folder)]}
    run("OneRecThink", "toy", config_dict=given)
    made_from = json.loads((tmp_path / "pupil" / "recommendation" / "facts.json").read_text())["made_from"]
    assert made_from["distillation"]["beyond"] == (0 if fresh else 1), "they were taught that very event"


def test_a_stage_that_only_explains_needs_its_teachers_as_well(toy_path, tmp_path):
    given = settings("OneRecThink", toy_path, tmp_path / "run", stages=["activation"])
    given["distillation"] = {"teachers": [str(tmp_path / "nowhere")]}
    with pytest.raises(InputError, match="is not the folder of a finished run"):
        run("OneRecThink", "toy", config_dict=given)
    assert not (tmp_path / "run").exists()


def test_a_pupil_does_without_its_teachers_once_it_is_taught(teacher, toy_path, tmp_path):
    own = tmp_path / "teacher"
    shutil.copytree(teacher[1], own)
    given = settings("OneRecThink", toy_path, tmp_path / "pupil", stages=["recommendation"])
    given |= {"recommendation": {"epochs": 1}, "distillation": {"teachers": [str(own)]}}
    taught = run("OneRecThink", "toy", config_dict=given)
    shutil.rmtree(own)
    assert run("OneRecThink", "toy", config_dict=given)["metrics"] == taught["metrics"], "read back"
    assert load(tmp_path / "pupil").recommend("u1")
    with pytest.raises(InputError, match="not the folder of a finished run"):
        run("OneRecThink", "toy", config_dict=given, restart=True)
    assert load(tmp_path / "pupil"), "refused before the run was emptied"


def test_teachers_that_cannot_teach_are_refused(teacher, toy_path, tmp_path):
    _, folder = teacher

    def taught(teachers, data_path=toy_path, name="run", **more):
        given = settings("OneRecThink", data_path, tmp_path / name, stages=["recommendation"])
        given["distillation"] = {"teachers": teachers, **more}
        return run("OneRecThink", "toy", config_dict=given)

    with pytest.raises(InputError, match="is not the folder of a finished run"):
        taught([str(tmp_path / "nowhere")])
    assert not (tmp_path / "run").exists()
    with pytest.raises(InputError, match=r"distillation\.weight must lie in"):
        taught([str(folder)], weight=1.5)
    with pytest.raises(InputError, match=r"distillation\.shares must be one number per teacher"):
        taught([str(folder)], shares=[1, 2])
    run("BPR", "toy", config_dict=settings("BPR", toy_path, tmp_path / "bpr"))
    with pytest.raises(InputError, match="does not score all items by a history"):
        taught([str(tmp_path / "bpr")], name="of-bpr")
    other = write_toy(tmp_path / "other", {f"u{n}": [f"p{(n + k) % 9}" for k in range(7)] for n in range(20)})
    with pytest.raises(InputError, match="trained on another split"):
        taught([str(folder)], data_path=other, name="elsewhere")
