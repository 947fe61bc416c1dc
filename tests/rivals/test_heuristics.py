"""Two heuristics whose every list can be said beforehand."""

import itertools

import numpy as np
import pytest
import torch
from recbole.data.interaction import Interaction

from recbole_think.config import ThinkConfig
from recbole_think.corpus.histories import from_pairs
from recbole_think.errors import InputError
from recbole_think.experiment import prepare, run
from recbole_think.itemic import embed
from recbole_think.rivals import heuristics
from recbole_think.rivals.heuristics import CoOccurrence, TextSimilarity, together
from tests.toy import N_ITEMS, settings, walks, write_toy

# users 1 and 2 met items 1, 2, 3 and 1, 3; user 3 met 3, 2
HISTORIES = from_pairs(np.array([1, 1, 1, 2, 2, 3, 3]), np.array([1, 2, 3, 1, 3, 3, 2]), 5)


def cells(table):
    return {(int(row), int(column)): float(table[row, column]) for row, column in zip(*table.nonzero(), strict=True)}


def test_pairs_count_forwards_within_the_window_and_nearer_ones_more():
    assert cells(together(HISTORIES, 5, window=1, both=False)) == {(1, 2): 1, (2, 3): 1, (1, 3): 1, (3, 2): 1}
    assert cells(together(HISTORIES, 5, window=2, both=False)) == {(1, 2): 1, (2, 3): 1, (1, 3): 1.5, (3, 2): 1}


def test_pairs_count_both_ways_if_wanted():
    assert cells(together(HISTORIES, 5, window=1, both=True)) == {
        (1, 2): 1, (2, 1): 1, (2, 3): 2, (3, 2): 2, (1, 3): 1, (3, 1): 1,
    }  # fmt: skip


def built(model, tmp_path, **more):
    given = settings(model, write_toy(tmp_path / "data"), tmp_path / "run", **more)
    config = ThinkConfig(model, "toy", config_dict=given)
    config["cache_dir"] = str(tmp_path / "cache")
    data = prepare(config)
    return config.model_class(config, data.train.dataset), data


def after(model, *items):
    row = torch.tensor([[*items, *[0] * (50 - len(items))]])
    return model.full_sort_predict(Interaction({model.ITEM_SEQ: row, model.ITEM_SEQ_LEN: torch.tensor([len(items)])}))[
        0
    ]


def test_the_last_item_alone_decides_and_popularity_among_equals(tmp_path):
    model, data = built("CoOccurrence", tmp_path, window=1, both=False)
    assert isinstance(model, CoOccurrence)
    assert torch.equal(after(model, 4, 9, 7), after(model, 2, 7)) and not torch.equal(after(model, 7), after(model, 9))
    names = data.train.dataset.field2id_token["item_id"]
    met = [visited[:-2] for visited in walks().values()]
    followed = [0.0] * (N_ITEMS + 1)
    for visited in met:
        for one, other in itertools.pairwise(visited):
            if one == names[7]:
                followed[list(names).index(other)] += 1
    ranked, found = sorted(range(1, N_ITEMS + 1), key=lambda item: -followed[item]), after(model, 7)
    assert followed[ranked[0]] > followed[ranked[1]], "a world with a clear answer"
    assert int(found.argmax()) == ranked[0]
    nothing = [item for item in range(1, N_ITEMS + 1) if not followed[item]]
    counts = {item: sum(visited.count(names[item]) for visited in met) for item in nothing}
    best = max(nothing, key=lambda item: float(found[item]))
    assert counts[best] == max(counts.values())


@pytest.mark.parametrize("name", ["CoOccurrence", "TextSimilarity"])
def test_with_a_decay_the_items_before_speak_as_well_each_with_that_share_of_the_next(tmp_path, name):
    model, _ = built(name, tmp_path, decay=0.5)
    alone = [model.likeness(model.say(np.array([[item]]), np.array([1])))[0] for item in (4, 9, 7)]
    wanted = (alone[0] / 4 + alone[1] / 2 + alone[2]) / 1.75
    np.testing.assert_allclose(model.likeness(model.say(np.array([[4, 9, 7, 0]]), np.array([3])))[0], wanted, atol=1e-6)
    even, _ = built(name, tmp_path / "even", decay=1.0)
    assert torch.allclose(after(even, 4, 9, 7), after(even, 7, 4, 9)), "a decay of 1 forgets the order"
    assert not torch.allclose(after(model, 4, 9, 7), after(model, 7, 4, 9))


def test_what_co_occurs_is_scored_by_logarithms_of_shares(tmp_path):
    model, _ = built("CoOccurrence", tmp_path)
    assert float(after(model, 7).softmax(0).sum()) == pytest.approx(1)
    np.testing.assert_allclose(after(model, 7).softmax(0), model.table[7].toarray()[0], atol=1e-4)


def test_what_reads_alike_is_ranked_first_and_never_the_item_itself(tmp_path, monkeypatch):
    angles = {f"Place p{number}": number * 2 * np.pi / N_ITEMS for number in range(N_ITEMS)}
    monkeypatch.setattr(
        embed, "encode",
        lambda texts, encoder: np.array([[3 * np.cos(a), 3 * np.sin(a)] for a in (_angle(t, angles) for t in texts)]),
    )  # fmt: skip
    model, data = built("TextSimilarity", tmp_path)
    assert isinstance(model, TextSimilarity)
    names = list(data.train.dataset.field2id_token["item_id"])
    found = after(model, names.index("p20"), names.index("p5"))
    best = [names[item] for item in found.argsort(descending=True)[:4].tolist()]
    assert set(best[:2]) == {"p4", "p6"} and set(best[2:]) == {"p3", "p7"}
    assert float(found[names.index("p5")]) < 0.001, "cosine 1, were it not the item itself"


def _angle(text, angles):
    return next(angle for name, angle in angles.items() if f"{name} " in f"{text} ".replace(",", " ").replace(".", " "))


@pytest.mark.parametrize("wrong", [{"window": 0}, {"window": 1.5}, {"both": 3}])
def test_a_window_that_is_none_is_refused(tmp_path, wrong):
    given = settings("CoOccurrence", write_toy(tmp_path / "data"), tmp_path / "run", **wrong)
    with pytest.raises(InputError, match=next(iter(wrong))):
        run("CoOccurrence", "toy", config_dict=given)


def test_texts_there_are_none_of_are_not_compared(tmp_path):
    path = write_toy(tmp_path / "data")
    (path / "toy" / "toy.item").unlink()
    with pytest.raises(InputError, match="compares the texts of items"):
        run("TextSimilarity", "toy", config_dict=settings("TextSimilarity", path, tmp_path / "run"))


def test_nothing_is_trained_and_epochs_are_refused(tmp_path):
    given = settings("CoOccurrence", write_toy(tmp_path / "data"), tmp_path / "run", epochs=3)
    with pytest.raises(InputError, match="nothing is trained"):
        run("CoOccurrence", "toy", config_dict=given)
    assert heuristics.TIE * N_ITEMS < 0.01
