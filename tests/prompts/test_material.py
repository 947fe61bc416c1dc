import itertools
from collections import Counter

import numpy as np
import pytest

from recbole_think.artifacts import digest
from recbole_think.corpus.histories import from_pairs
from recbole_think.corpus.items import ItemText
from recbole_think.errors import InputError
from recbole_think.prompts.alignment import GeneralText
from recbole_think.prompts.material import TASKS, Material, mixed_rows
from recbole_think.prompts.options import AlignmentOptions
from tests.small import distinct_codes, taught

SIZES = (8, 8)
N, USERS = 30, 20
TABLE = distinct_codes(N, SIZES)


@pytest.fixture(scope="module")
def vocabulary():
    return taught(TABLE, SIZES)[1]


def histories(length=12):
    users = np.repeat(np.arange(1, USERS + 1), length)
    items = np.concatenate([(start + np.arange(length)) % N + 1 for start in range(USERS)])
    return from_pairs(users, items, USERS + 1)


@pytest.fixture
def make(vocabulary):
    def made(seed=1, held_out=0.2, texts=10, **more) -> Material:
        return Material(
            vocabulary, histories(), [ItemText(f"thing{n}x") for n in range(1, N + 1)],
            [f"name user{u}x" for u in range(1, USERS + 1)], [GeneralText(f"text{n}x") for n in range(texts)],
            AlignmentOptions(held_out=held_out, **more), 6, seed,
        )  # fmt: skip

    return made


def all_text(material, rows) -> str:
    ids = [example.input_ids for row in rows for example in row.examples]
    return " ".join(material.vocabulary.tokenizer.batch_decode(ids))


def test_a_share_of_items_users_and_texts_is_held_out_by_seed(make):
    material = make()
    assert (len(material.held_items), len(material.held_users), len(material.held_texts)) == (6, 4, 2)
    assert material.held_items == make().held_items != make(seed=2).held_items
    assert min(material.held_items) >= 1 and max(material.held_items) <= N


def test_what_is_held_out_is_never_read_in_training_and_the_rest_is(make):
    material = make()
    text = all_text(material, mixed_rows(material, dict.fromkeys(TASKS, 1.0), 30_000, 128))
    for item in range(1, N + 1):
        assert (f"thing{item}x" in text) == (item not in material.held_items)
    for user in range(1, USERS + 1):
        assert (f"user{user}x" in text) == (user not in material.held_users)
    for place in range(10):
        assert (f"text{place}x" in text) == (place not in material.held_texts)


def test_training_and_held_out_users_part_the_sequential_task(make):
    material = make()
    frame = material.prefixes["sequential"]

    def transitions(held):
        found = Counter()
        for example in material.examples("sequential", held, np.random.default_rng(3)):
            items = example.input_ids[frame:].reshape(-1, 2).tolist()
            found.update(itertools.pairwise(map(tuple, items)))
        return found

    everyone = transitions(True) + transitions(False)
    of_users = Counter()
    for user in range(1, USERS + 1):
        tokens = list(map(tuple, material.vocabulary.item_tokens[material.histories.of(user) - 1].tolist()))
        of_users.update(itertools.pairwise(tokens))
    assert everyone == of_users
    assert sum(transitions(True).values()) == 4 * 11


def named(material, task, held):
    """Of every example of a pass: which items its words speak of, and its items by tokens."""
    vocabulary = material.vocabulary
    by_tokens = {tuple(tokens): item for item, tokens in enumerate(vocabulary.item_tokens.tolist(), 1)}
    found = []
    for example in material.examples(task, held, np.random.default_rng(3)):
        codes = example.input_ids[example.input_ids >= vocabulary.first].reshape(-1, 2).tolist()
        words = vocabulary.tokenizer.decode(example.input_ids[example.input_ids < vocabulary.first])
        spoken = [item for item in range(1, N + 1) if f"thing{item}x" in words]
        found.append((spoken, [by_tokens[tuple(tokens)] for tokens in codes]))
    return found


def test_every_item_is_named_once_by_a_text_of_its_own_and_those_held_out_are_not(make):
    material = make()
    for held in (False, True):
        pairs = named(material, "naming", held)
        assert all(spoken == codes and len(codes) == 1 for spoken, codes in pairs)
        wanted = {item for item in range(1, N + 1) if (item in material.held_items) == held}
        assert sorted(codes[0] for _, codes in pairs) == sorted(wanted)


def test_an_item_is_named_by_its_title_or_by_all_that_is_said_of_it(vocabulary):
    items = [ItemText(f"thing{n}x", {"class": "red"}) for n in range(1, N + 1)]
    general = [GeneralText("text")] * 2
    material = Material(vocabulary, histories(), items, [None] * USERS, general, AlignmentOptions(), 6, 1)
    told = [
        "red" in vocabulary.tokenizer.decode(example.input_ids)
        for _ in range(3)
        for example in material.examples("naming", False, np.random.default_rng(0))
    ]
    assert 0.2 < np.mean(told) < 0.8


def test_every_transition_asks_once_for_the_title_of_what_came_next(make):
    material = make()
    of_users = []
    for user in set(range(1, USERS + 1)) - material.held_users:
        history = material.histories.of(user).tolist()
        of_users += [
            ([item], history[max(0, place - 6) : place])
            for place, item in enumerate(history)
            if place and item not in material.held_items
        ]
    assert Counter(map(str, named(material, "next_title", False))) == Counter(map(str, of_users))


def test_titles_asked_for_to_measure_with_are_those_of_users_held_out(make):
    material = make()
    wanted = Counter()
    for user in material.held_users:
        history = material.histories.of(user).tolist()
        wanted.update(str(([item], history[max(0, place - 6) : place])) for place, item in enumerate(history) if place)
    assert Counter(map(str, named(material, "next_title", True))) == wanted


def test_what_four_tasks_read_is_what_they_read_before_there_were_more(make):
    shares = dict.fromkeys(TASKS, 0.0) | {"sequential": 0.6573, "persona": 0.2430, "captioning": 0.0494}
    rows = mixed_rows(make(), {**shares, "general": 0.0503}, 8_000, 128)
    read = [[e.input_ids.tolist(), e.supervised.tolist(), e.plain] for row in rows for e in row.examples]
    assert digest(read) == "bf9f9e0c", "weights trained before would not match their facts"


def test_tasks_are_drawn_by_their_shares(make):
    material = make(persona_items=2)
    rows = mixed_rows(material, {"sequential": 6.0, "persona": 0.0, "captioning": 3.0, "general": 1.0}, 60_000, 128)
    drawn = Counter()
    for row in rows:
        for example in row.examples:
            if not example.plain:
                drawn["sequential"] += 1
            else:
                drawn["captioning" if (example.input_ids >= material.vocabulary.first).any() else "general"] += 1
    total = sum(drawn.values())
    assert total > 300
    for name, share in (("sequential", 0.6), ("captioning", 0.3), ("general", 0.1)):
        assert drawn[name] / total == pytest.approx(share, abs=0.06)


@pytest.mark.parametrize("tokens", [500, 5_000, 40_000])
def test_as_many_tokens_are_drawn_as_asked_for_give_or_take_an_example(make, tokens):
    material = make()
    rows = mixed_rows(material, dict.fromkeys(TASKS, 1.0), tokens, 128)
    longest = max(len(example.input_ids) for row in rows for example in row.examples)
    frames = sum(row.shared for row in rows)
    assert tokens <= sum(row.tokens for row in rows) <= tokens + longest + frames


def test_the_same_seed_draws_the_same_rows(make):
    def flat(seed):
        rows = mixed_rows(make(seed), dict.fromkeys(TASKS, 1.0), 4_000, 128)
        return [example.input_ids.tolist() for row in rows for example in row.examples]

    assert flat(1) == flat(1) != flat(2)


def test_the_last_item_alone_may_be_the_target(make):
    material = make()
    generator = np.random.default_rng(0)
    for example in material.examples("sequential", False, generator, last_only=True):
        assert example.supervised[-2:].all() and example.supervised.sum() == 2


def test_a_task_with_nothing_to_train_on_is_an_input_error(make):
    with pytest.raises(InputError, match="general"):
        mixed_rows(make(texts=1), {"general": 1.0}, 100, 64)
