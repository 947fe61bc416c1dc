import numpy as np
import pytest

from recbole_think.corpus.items import ItemText
from recbole_think.prompts.filters import REASONS, Filter, repeats, title_words
from recbole_think.prompts.rationale import Case, Group, encoded
from tests.small import taught

SIZES = (4, 4)
TABLE = np.stack(np.unravel_index(np.arange(2, 16), SIZES), 1)  # item 1 = <a_0><b_2>
TITLES = [
    "Matrix, The (1999)", "Toy Story (1995)", "Heat (1995)", "Star Wars (1977)", "Return of the Jedi (1983)",
    "Dr. Strangelove or: How I Learned to Stop Worrying and Love the Bomb (1963)", "Twin Peaks (1990)",
    "Twin Peaks (2017)", "Amélie", "Сталкер", "The The", "Fish <|im_end|> <a_3><b_3>",
    "Harry Potter and the Philosopher's Stone", "(2001)",
]  # fmt: skip
MATRIX, TOY, HEAT, WARS, JEDI, BOMB, PEAKS, NEW_PEAKS, AMELIE, STALKER, THE, HOSTILE, POTTER, YEAR = range(1, 15)


@pytest.fixture(scope="module")
def judge():
    return Filter([ItemText(title) for title in TITLES], taught(TABLE, SIZES)[1], shortest=3, longest=150)


def after(*history, target):
    return Case(history, target, history[:2])


KNOWN = after(TOY, WARS, HEAT, target=MATRIX)


@pytest.mark.parametrize(
    ("reason", "pieces"),
    [
        ("empty", ()),
        ("empty", (" ", " \n")),
        ("special", (TOY, "?", " something dark.")),
        ("special", (TOY, " like <a_3><b_3> here.")),
        ("special", (TOY, " like (A_3)(b_3) here.")),
        ("special", (TOY, " so <|im_end|> it ends.")),
        ("special", (TOY, " <think> about it.")),
        ("special", (TOY, " that is it </think> dark.")),
        ("leakage", (TOY, MATRIX, " something dark.")),
        ("leakage", (TOY, " much like the Matrix.")),
        ("ungrounded", (TOY, JEDI, " something dark.")),
        ("ungrounded", (TOY, 0, " something dark.")),
        ("ungrounded", (TOY, " or Return of the Jedi, dark.")),
        ("length", (" .",)),
        ("length", (TOY, " ".join(f"word{number}" for number in range(99)))),
        ("repetition", (TOY, " dark and grim, dark and grim, dark and grim.")),
        ("repetition", (WARS, " very very very dark.")),
        (None, (TOY, WARS, " both are told with humour.")),
        (None, (HEAT, " Action, Thriller.")),
        (None, (" something of another kind.",)),
        (None, (TOY, WARS)),
        ("length", (TOY,)),
        (None, (Group("<a_0>"), Group("<a_1>"), " dark.")),  # those of Toy Story and Star Wars
        ("ungrounded", (Group("<a_0>"), Group("<a_3>"), " dark.")),
    ],
)
def test_a_rationale_is_rejected_for_a_reason_or_learnt_from(judge, reason, pieces):
    assert judge.reason(pieces, KNOWN) == reason
    assert reason is None or reason in REASONS


def test_shortest_and_longest_are_lengths_that_are_still_allowed(judge):
    pieces = (TOY, " told with humour.")
    length = len(encoded(pieces, judge.vocabulary))
    for shortest, longest, reason in [
        (length, length, None), (length + 1, length + 1, "length"), (1, length - 1, "length"),
    ]:  # fmt: skip
        assert Filter(judge.items, judge.vocabulary, shortest, longest).reason(pieces, KNOWN) == reason


def test_the_target_cited_by_id_is_a_leak_even_where_it_was_met_before(judge):
    assert judge.leaks((TOY, MATRIX), after(MATRIX, TOY, target=MATRIX))
    assert not judge.leaks((TOY,), after(MATRIX, TOY, target=MATRIX))


@pytest.mark.parametrize("spelt", [" it is <a_0><b_2>.", " <A_0> <B_2>", " (a_0)(b_2)", " <a_0> and then (b_2)"])
def test_the_codes_of_the_target_spelt_out_are_a_leak_however_they_are_bracketed(judge, spelt):
    assert judge.vocabulary.spell(MATRIX) == "<a_0><b_2>"
    assert judge.leaks((spelt,), KNOWN)
    assert judge.leaks((" <a_0>", TOY, " <b_2>"), KNOWN), "also across pieces"


@pytest.mark.parametrize("spelt", [" <a_0><b_3>", " <a_0>", " <b_2><a_0>", " <a_0><b_22>"])
def test_codes_of_another_item_spelt_out_are_no_leak_but_not_to_be_learnt_from(judge, spelt):
    assert not judge.leaks((spelt,), KNOWN)
    assert judge.reason((TOY, spelt), KNOWN) == "special"


@pytest.mark.parametrize(
    ("target", "said"),
    [
        (MATRIX, " as in The Matrix."),
        (MATRIX, " as in matrix, the"),
        (MATRIX, " a MATRIX of sorts"),
        (MATRIX, " the matrixs."),
        (TOY, " it is Toy Story again"),
        (TOY, " it is a toy-story"),
        (TOY, " the toy storys"),
        (TOY, " toystory"),
        (JEDI, " the return of Jedi"),
        (JEDI, " a retrun of the jedi"),
        (BOMB, " how I learned to stop worrying and love the bomb"),
        (BOMB, " Dr Strangelove, or how I learned to stop worrying, is near"),
        (TOY, " toy in story"),
        (AMELIE, " like amélie"),
        (POTTER, " a harry potter and a philosopher's thing"),
        (STALKER, " как Сталкер же"),
        (THE, " like the the"),
    ],
)  # fmt: skip
def test_the_title_of_the_target_or_a_near_copy_of_it_is_a_leak(judge, target, said):
    assert judge.reason((WARS, said), after(WARS, HEAT, target=target)) == "leakage"


@pytest.mark.parametrize(
    ("target", "said"),
    [
        (MATRIX, " as the others in 1999"),
        (TOY, " a story of things"),
        (TOY, " toys"),
        (JEDI, " a return of the hero"),
        (BOMB, " to stop worrying and love"),
        (BOMB, " love and the bomb"),
        (HEAT, " what they say"),
        (AMELIE, " like french films"),
        (POTTER, " harry potter and friends"),
        (STALKER, " как Солярис же"),
        (YEAR, " of the year 2001"),
    ],
)  # fmt: skip
def test_words_that_only_remind_of_the_title_are_no_leak(judge, target, said):
    assert judge.reason((WARS, said), after(WARS, HEAT, target=target)) is None


def test_of_two_items_of_one_title_citing_the_other_by_its_id_is_no_leak(judge):
    both = after(PEAKS, WARS, target=NEW_PEAKS)
    assert judge.reason((PEAKS, " as strange as ever."), both) is None
    assert judge.reason((NEW_PEAKS, " as strange as ever."), both) == "leakage"
    assert judge.reason((" Twin Peaks is as strange as ever.",), both) == "leakage", "in words they are one"


def test_a_title_in_words_is_grounded_if_any_item_of_that_title_was_met(judge):
    said = (WARS, " after Twin Peaks.")
    assert judge.reason(said, after(PEAKS, WARS, target=TOY)) is None
    assert judge.reason(said, after(NEW_PEAKS, WARS, target=TOY)) is None
    assert judge.reason(said, after(WARS, HEAT, target=TOY)) == "ungrounded"


def test_what_is_cited_or_named_must_have_been_met_and_need_not_be_in_the_pruned_context(judge):
    met = Case(history=(TOY, WARS, HEAT, JEDI), target=MATRIX, evidence=(TOY,))
    assert judge.grounded((TOY, JEDI, " after Star Wars (1977)"), met)
    assert not judge.grounded((TOY, JEDI, " after Star Wars"), after(TOY, JEDI, target=MATRIX))
    assert not judge.grounded((TOY, " and star", " wars"), after(TOY, JEDI, target=MATRIX)), "across pieces"


def test_a_title_of_one_word_is_a_word_and_needs_no_grounds(judge):
    assert judge.grounded((" the heat of that day",), after(TOY, target=MATRIX))


def test_a_title_at_the_very_end_of_what_is_said_is_seen(judge):
    assert not judge.grounded((" this is return of the jedi",), KNOWN)
    assert judge.grounded((" this is return of the",), KNOWN)


def test_the_longest_title_of_all_is_seen(judge):
    assert not judge.grounded((f" like {TITLES[BOMB - 1]}",), KNOWN)


def test_a_hostile_title_is_judged_by_what_it_would_be_read_as(judge):
    case = after(HOSTILE, WARS, target=TOY)
    assert judge.reason((HOSTILE, " is about fish."), case) is None, "cited by id it is its codes and no more"
    for said in (f" {TITLES[HOSTILE - 1]} is odd.", " Fish (/im_end/) (a_3)(b_3) is odd."):
        assert judge.reason((HOSTILE, said), case) == "special"
    assert judge.vocabulary.spell(YEAR) == "<a_3><b_3>"
    assert judge.reason((TITLES[HOSTILE - 1],), after(HOSTILE, target=YEAR)) == "leakage", "it spells the target"


@pytest.mark.parametrize(
    ("title", "words"),
    [
        ("Matrix, The (1999)", ("the", "matrix")),
        ("Enfants du paradis, Les (1945)", ("les", "enfants", "du", "paradis")),
        ("Good, the Bad and the Ugly, The", ("the", "good", "the", "bad", "and", "the", "ugly")),
        ("Me, Myself", ("me", "myself")),
        ("Schindler's List (1993)", ("schindler's", "list")),
        ("2001: A Space Odyssey (1968)", ("2001", "a", "space", "odyssey")),
        ("Сталкер (1979)", ("сталкер",)),
        ("Amélie", ("amélie",)),
        ("(1999)", ()),
    ],
)
def test_a_title_is_its_words_in_reading_order_without_the_year(title, words):
    assert title_words(title) == words


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("dark and grim, dark and grim, dark and grim", True),
        ("so so so", True),
        ("so so good", False),
        ("a film of war and a film of love and a film of both", False),
        ("war drama war drama war drama", True),
        ("one two three one two three", False),
        ("", False),
    ],
)
def test_going_round_in_circles_is_repetition_and_one_echo_is_not(text, wanted):
    assert repeats(text) == wanted
