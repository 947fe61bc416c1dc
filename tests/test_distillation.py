"""Distillation from finished runs: teachers are asked with the very histories, and pupils come to agree with them."""

import json

import numpy as np
import pytest
import torch

from recbole_think import load, run
from recbole_think.decoding.exact import score_items
from recbole_think.distillation import taught_by
from recbole_think.errors import InputError
from recbole_think.prompts.batching import prompt_batch
from tests.toy import run_opened, settings, write_toy


@pytest.fixture(scope="module")
def teacher(toy_path, tmp_path_factory):
    folder = tmp_path_factory.mktemp("teacher") / "run"
    return run_opened(
        "SASRecAll", settings("SASRecAll", toy_path, folder, epochs=60, learning_rate=0.01, stopping_step=99)
    ), folder


def asked(folders, data, **more):
    return taught_by(
        folders, data.histories, data.fingerprint, more.get("count", 5), more.get("temperature", 1.0), False
    )


def test_teachers_are_asked_with_the_history_before_each_event_and_nothing_of_it(teacher):
    opened, folder = teacher
    items, shares = asked([str(folder)], opened.data)
    model, histories = load(folder).model, opened.data.histories
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
    warm = asked([str(folder)], opened.data, temperature=5.0)
    known = alone[1][:, 0] > 0
    assert (warm[1][known, 0] < alone[1][known, 0]).all() and np.array_equal(warm[0][:, 0], alone[0][:, 0])


def cross_entropy(pupil, teacher):
    """Of the teacher's probabilities of all items under the pupil's, for the test users, in nats."""
    users = [f"u{number}" for number in range(40)]
    wanted = teacher.full_sort_scores(users, mask_history=False)[:, 1:].double().softmax(1)
    ranker, histories = pupil.model.ranker, [pupil._history(user, "test") for user in users]
    batch = prompt_batch(ranker.prompts(histories), ranker.vocabulary.tokenizer.pad_token_id)
    found = score_items(ranker.language_model, *batch, ranker.trie, ranker.vocabulary.code_tokens, "level")
    return float(-(wanted * found).sum(1).mean())


def test_a_pupil_of_soft_labels_is_nearer_to_its_teacher_than_one_of_true_items_alone(teacher, toy_path, tmp_path):
    _, folder = teacher
    lessons, apart = {"epochs": 25, "validations": 1, "precision": "float32", "teachers": [str(folder)]}, {}
    for weight in (0.0, 0.5, 1.0):
        given = settings("OneRecThink", toy_path, tmp_path / str(weight), stages=["recommendation"])
        given["recommendation"] = {**lessons, "teacher_weight": weight}
        run("OneRecThink", "toy", config_dict=given)
        apart[weight] = cross_entropy(load(tmp_path / str(weight)), load(folder))
    assert apart[1.0] < apart[0.5] < apart[0.0]
    kept = json.loads((tmp_path / "1.0" / "recommendation" / "facts.json").read_text())
    assert kept["made_from"]["teachers"], "which weights taught is known"


def test_teachers_that_cannot_teach_are_refused(teacher, toy_path, tmp_path):
    _, folder = teacher

    def taught(teachers, data_path=toy_path, name="run", **more):
        given = settings("OneRecThink", data_path, tmp_path / name, stages=["recommendation"])
        given["recommendation"] = {**given["recommendation"], "teachers": teachers, **more}
        return run("OneRecThink", "toy", config_dict=given)

    with pytest.raises(InputError, match="is not the folder of a finished run"):
        taught([str(tmp_path / "nowhere")])
    assert not (tmp_path / "run").exists()
    with pytest.raises(InputError, match="teacher_weight must lie in"):
        taught([str(folder)], teacher_weight=1.5)
    run("BPR", "toy", config_dict=settings("BPR", toy_path, tmp_path / "bpr"))
    with pytest.raises(InputError, match="does not score all items by a history"):
        taught([str(tmp_path / "bpr")], name="of-bpr")
    other = write_toy(tmp_path / "other", {f"u{n}": [f"p{(n + k) % 9}" for k in range(7)] for n in range(20)})
    with pytest.raises(InputError, match="trained on another split"):
        taught([str(folder)], data_path=other, name="elsewhere")
