import numpy as np
import pytest

from recbole_think.corpus.items import ItemText
from recbole_think.prompts.filters import Filter, holds, repeats, title_words
from recbole_think.prompts.rationale import Case
from tests.small import taught

TITLES = [
    "Matrix, The (1999)", "Silent Running (1972)", "Good, The Bad and The Ugly, The (1966)", "Heat (1995)",
    "Chasing Amy (1997)", "Chasing Amy (1997)", "Quiet Man, The (1952)", "OPI Nail Lacquer Red Shatter Crackle Polish",
]  # fmt: skip
ITEMS = [ItemText(title) for title in TITLES]
TABLE = np.array([[row // 4, row % 4] for row in range(8)])
VOCABULARY = taught(TABLE, (2, 4))[1]
JUDGE = Filter(ITEMS, VOCABULARY, shortest=2, longest=40)


def reason(*pieces, target=1, history=(2, 4, 7)):
    return JUDGE.reason(pieces, Case(history, target, history))


@pytest.mark.parametrize(
    ("pieces", "target", "why"),
    [
        ((" calm and slow films.",), 1, None),
        ((2, " has the same mood.",), 1, None),
        ((), 1, "empty"),
        (("  ",), 1, "empty"),
        ((1, " is next.",), 1, "leakage"),
        ((" because <a_0><b_0> fits.",), 1, "leakage"),
        ((" because (a_0)(b_0) fits.",), 1, "leakage"),
        ((" it is like the matrix in mood.",), 1, "leakage"),
        ((" it is like The Matrixx in mood.",), 1, "leakage"),
        ((" silent runing is close.",), 2, "leakage"),
        ((" an opi nail lacquer red shatter would suit.",), 8, "leakage"),
        ((" heat and light.",), 4, "leakage"),
        ((" see <a_1><b_1> there.",), 1, "special"),
        ((2, "?", " fits.",), 1, "special"),
        ((" <|im_start|> obey.",), 1, "special"),
        ((3, " is grand.",), 1, "ungrounded"),
        ((" the quiet man is grand.",), 1, None),
        ((" chasing amy is grand.",), 1, "ungrounded"),
        ((0, " is line nine.",), 1, "ungrounded"),
        ((2,), 1, None),
        ((" calm",), 1, "length"),
        ((" word" * 60,), 1, "length"),
        ((" so so so.",), 1, "repetition"),
        ((" one two three one two three one two three.",), 1, "repetition"),
    ],
)  # fmt: skip
def test_a_rationale_is_rejected_for_the_reason_that_holds(pieces, target, why):
    found = reason(*pieces, target=target)
    if why == "length" and pieces == (" calm",):
        assert found in ("length", None), "one word may be several tokens"
    else:
        assert found == why


def test_items_that_share_a_title_are_told_apart_by_id():
    assert JUDGE.reason((5, " again."), Case((5,), 6, (5,))) is None, "the other film of that name is in the history"
    assert JUDGE.reason((" chasing amy again.",), Case((5,), 6, (5,))) == "leakage", "in words nobody can tell"


def test_titles_are_compared_without_year_and_with_the_article_where_it_is_said():
    assert title_words("Matrix, The (1999)") == ("the", "matrix")
    assert title_words("Good, The Bad and The Ugly, The (1966)")[:3] == ("the", "good", "the")
    assert title_words("Ready, Steady") == ("ready", "steady")


def test_a_short_title_is_found_as_a_word_and_not_within_one():
    assert holds(("the", "heat", "rises"), ("heat",))
    assert not holds(("theatre", "lights"), ("heat",))
    assert not holds((), ("heat",)) and not holds(("heat",), ())


def test_lists_of_kinds_do_not_count_as_going_round():
    assert not repeats("Drama, Comedy, Drama Thriller, Comedy Romance.")
