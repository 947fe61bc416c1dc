import numpy as np
import pytest

from recbole_think.corpus.items import ItemText
from recbole_think.prompts.rationale import (
    Case,
    category_rationale,
    category_texts,
    decoded,
    encoded,
    from_teacher,
    items_by_tokens,
    kinds,
    nearest,
    spoken,
    teacher_messages,
)
from recbole_think.prompts.thinking import briefly, only, taught_words
from tests.small import distinct_codes, taught

SIZES = (3, 4)
ITEMS = [
    ItemText("Heat", {"class": "Action Crime"}),
    ItemText("Ronin", {"class": "Action Thriller"}),
    ItemText("Big", {"class": "Comedy"}),
    ItemText("Up", {"class": "Animation Comedy"}),
    ItemText("Alien", {"class": "Horror"}),
    ItemText("Blank"),
]
VOCABULARY = taught(distinct_codes(len(ITEMS), SIZES), SIZES)[1]


def test_the_pruned_context_is_what_is_most_like_the_target_nearest_first():
    vectors = np.array([[1, 0], [0.8, 0.6], [0, 1], [-1, 0], [0.6, 0.8]])
    assert nearest([4, 3, 5, 2, 3], 1, vectors, 3) == (2, 5, 3)
    assert nearest([1, 4, 1], 1, vectors, 3) == (4,), "the target itself is no evidence"
    assert nearest([], 1, vectors, 3) == ()
    assert nearest([3, 2], 1, np.ones((5, 2)), 2) == (2, 3), "equals in the order of their ids"


@pytest.mark.parametrize(
    ("category", "parts"),
    [
        ("Action Thriller", ["Action", "Thriller"]),
        ("Beauty > Makeup > Nail Polish", ["Beauty", "Makeup", "Nail Polish"]),
        ("Games|Puzzle", ["Games", "Puzzle"]),
        ("", []),
    ],
)
def test_kinds_are_the_parts_of_a_category(category, parts):
    assert kinds(ItemText("x", {"class": category})) == parts


def test_a_rationale_speaks_of_the_evidence_and_not_of_the_target():
    case = Case((1, 2, 3), 5, (2, 1, 3))
    assert category_rationale(case, ITEMS, cited=2, named=1) == (2, 1, " Action.")
    assert category_rationale(case, ITEMS, cited=0, named=2) == (" Action, Thriller.",)
    assert category_rationale(case, ITEMS, cited=1, named=0) == (2,)
    told = category_rationale(case, ITEMS, cited=0, named=0, target_category=True)
    assert told == (" Next: Horror.",)
    assert category_rationale(Case((6,), 1, (6,)), ITEMS, 0, 3) == (" something else.",)


def test_words_that_may_be_said_hold_whatever_a_rationale_says():
    words = set(taught_words(category_texts(ITEMS), VOCABULARY).tolist())
    dice = np.random.default_rng(0)
    for _ in range(200):
        history = tuple(dice.integers(1, len(ITEMS) + 1, 4).tolist())
        target = int(dice.integers(1, len(ITEMS) + 1))
        case = Case(history, target, nearest(history, target, np.eye(len(ITEMS)), 3))
        pieces = category_rationale(case, ITEMS, 2, int(dice.integers(0, 4)), bool(dice.integers(2)))
        assert set(encoded(pieces, VOCABULARY)) <= words
        for wished in (only(kinds(ITEMS[0])[0], pieces, dice), briefly(pieces, dice)):
            assert set(encoded(wished[1], VOCABULARY)) <= words


def test_what_is_written_reads_back_as_pieces():
    items_of = items_by_tokens(VOCABULARY)
    pieces = (2, 5, " Action, Thriller.")
    assert decoded(encoded(pieces, VOCABULARY), VOCABULARY, items_of) == pieces
    broken = [int(VOCABULARY.code_tokens[1][0]), *encoded((3,), VOCABULARY)]
    assert decoded(broken, VOCABULARY, items_of) == ("?", 3), "a code alone names no item"
    assert decoded([], VOCABULARY, items_of) == ()


def test_a_teacher_sees_lines_and_names_them_by_number():
    case = Case((3, 1, 2), 5, (2, 3))
    [_, question] = teacher_messages(case, ITEMS)
    assert "[1] Ronin" in question["content"] and "[2] Big" in question["content"] and "Alien" in question["content"]
    assert "Heat" not in question["content"], "the context is pruned"
    assert from_teacher("As [2], then\n [1] and [7].", case) == (" As", 3, " , then", 2, " and", 0, " .")


def test_people_read_titles():
    assert spoken((2, " is tense.", 3, " is not."), ITEMS) == "[Ronin] is tense. [Big] is not."
