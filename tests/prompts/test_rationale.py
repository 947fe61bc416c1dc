import itertools

import numpy as np
import pytest

from recbole_think.corpus.items import ItemText
from recbole_think.itemic.backbone import tiny
from recbole_think.itemic.codes import Codes
from recbole_think.itemic.vocabulary import extend_tokenizer
from recbole_think.prompts.options import NAMED
from recbole_think.prompts.rationale import (
    Case,
    Group,
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
    traits,
)
from recbole_think.prompts.templates import RATIONALE_NOTHING
from recbole_think.prompts.thinking import taught_words
from tests.small import distinct_codes, taught

N, SIZES = 12, (4, 4)
TABLE = distinct_codes(N, SIZES, seed=3)
CATEGORIES = [
    "Action Thriller", "Action Children's", "Sci-Fi", "Beauty > Make-up > Eyes (XL)", "Beauty > 18+",
    "Film-Noir Action", "Drama|War", "Drama, Romance", "a/b;c", "", "Thriller", "Western",
]  # fmt: skip
ITEMS = [
    ItemText(f"Thing {n}", {"class": category} if category else {}) for n, category in enumerate(CATEGORIES, start=1)
]
# item r + 1 points r steps around a quarter of a circle, so that neighbours in id are nearest
ANGLES = np.linspace(0, np.pi / 2, N)
ARC = np.stack([np.cos(ANGLES), np.sin(ANGLES)], 1).astype(np.float32)


@pytest.fixture(scope="module")
def vocabulary():
    return taught(TABLE, SIZES)[1]


def case(*evidence, target=12):
    return Case(history=evidence, target=target, evidence=evidence)


def test_the_pruned_context_is_nearest_first():
    assert nearest([9, 1, 5, 2], 4, ARC, 10) == (5, 2, 1, 9)
    assert nearest([9, 1, 5, 2], 4, ARC, 2) == (5, 2)


def test_an_item_met_often_is_in_the_context_once():
    assert nearest([5, 1, 5, 5, 1], 4, ARC, 10) == (5, 1)


def test_the_target_is_not_its_own_context_however_often_it_was_met():
    assert nearest([4, 1, 4], 4, ARC, 10) == (1,)
    assert nearest([4, 4], 4, ARC, 10) == ()


def test_equally_near_items_stand_in_the_order_of_their_ids_wherever_they_were_met():
    odd_ones_alike = np.tile(np.float32([[1, 0], [0, 1]]), (50, 1))
    assert nearest(list(range(100, 1, -1)), 1, odd_ones_alike, 999) == (*range(3, 101, 2), *range(2, 101, 2))


def test_nothing_met_is_no_context():
    assert nearest([], 4, ARC, 10) == ()


@pytest.mark.parametrize(
    ("category", "wanted"),
    [
        ("Action Thriller", ["Action", "Thriller"]),
        ("Beauty > Makeup", ["Beauty", "Makeup"]),
        ("Beauty>Hair Care > Combs & Brushes", ["Beauty", "Hair Care", "Combs & Brushes"]),
        ("Drama|War", ["Drama", "War"]),
        ("Drama, War; Noir/Crime", ["Drama", "War", "Noir", "Crime"]),
        ("> Beauty >", ["Beauty"]),
        ("Sci-Fi", ["Sci-Fi"]),
    ],
)
def test_kinds_are_the_parts_of_a_category_the_most_general_first(category, wanted):
    assert kinds(ItemText("x", {"class": category})) == wanted


def test_an_item_without_a_category_is_of_no_kind():
    assert kinds(ItemText("x", {"year": "1995"})) == kinds(ItemText("x", {"class": ""})) == []


def test_a_rationale_cites_the_nearest_and_says_what_most_of_the_evidence_shares():
    assert category_rationale(case(1, 2, 6, 11), ITEMS, cited=2, named=2) == (1, 2, " Action, Thriller.")
    assert category_rationale(case(1, 2, 6, 11), ITEMS, cited=9, named=1) == (1, 2, 6, 11, " Action.")


def test_kinds_equally_shared_are_named_from_the_nearest_item_on():
    assert category_rationale(case(8, 3), ITEMS, 1, 3)[-1] == " Drama, Romance, Sci-Fi."
    assert category_rationale(case(3, 8), ITEMS, 1, 3)[-1] == " Sci-Fi, Drama, Romance."


def test_a_kind_an_item_lists_twice_counts_once():
    items = [ItemText("x", {"class": words}) for words in ("War War", "Drama", "Drama", "")]
    assert category_rationale(Case((1, 2, 3), 4, (1, 2, 3)), items, 0, 1) == (" Drama.",)


def test_only_the_evidence_speaks_and_the_target_does_not():
    every = {category_rationale(case(1, 3, target=target), ITEMS, 2, 9) for target in range(1, N + 1)}
    assert every == {(1, 3, " Action, Thriller, Sci-Fi.")}
    met = Case(history=(1, 12, 3), target=2, evidence=(3,))
    assert category_rationale(met, ITEMS, 2, 9) == (3, " Sci-Fi."), "what was pruned does not speak"


def test_the_category_of_the_target_is_said_only_when_asked_for():
    assert category_rationale(case(3), ITEMS, 1, 2, target_category=True) == (3, " Sci-Fi.", " Next: Western.")
    unknown = category_rationale(case(3, target=10), ITEMS, 1, 2, target_category=True)
    assert unknown[-1] == f" Next: {RATIONALE_NOTHING}."


def test_evidence_of_no_kind_says_something_else():
    assert category_rationale(case(10), ITEMS, 1, 2) == (10, f" {RATIONALE_NOTHING}.")
    assert category_rationale(case(), ITEMS, 3, 2) == (f" {RATIONALE_NOTHING}.",)


def test_codes_are_named_as_the_groups_most_of_the_evidence_belongs_to(vocabulary):
    said = traits(ITEMS, "codes", vocabulary)
    firsts = [int(first) for first in TABLE[:, 0]]
    assert said == [[Group(f"<a_{first}>")] for first in firsts]
    common = max(set(firsts), key=firsts.count)
    evidence = (firsts.index(common) + 1, *(n for n in range(1, N + 1) if firsts[n - 1] == common))
    other = next(n for n in range(1, N + 1) if firsts[n - 1] != common)
    [first, second] = category_rationale(case(other, *evidence), ITEMS, 0, 2, of_items=said)
    assert (first.name, second.name) == (f"<a_{common}>", f"<a_{firsts[other - 1]}>")


def test_paths_are_categories_whole_without_what_all_items_share(vocabulary):
    shelf = [ItemText("x", {"class": c}) for c in ("Beauty > Make-up > Eyes", "Beauty > Hair", "Beauty", "")]
    said = traits(shelf, "paths", vocabulary)
    assert said == [["Make-up > Eyes"], ["Hair"], [], []]
    assert category_rationale(case(1, 2), shelf, 0, 2, of_items=said) == (" Make-up > Eyes, Hair.",)
    assert category_rationale(case(3, 4), shelf, 0, 2, of_items=said) == (f" {RATIONALE_NOTHING}.",)
    assert traits(ITEMS[:2], "paths", vocabulary) == [["Thriller"], ["Children's"]], "all of two films are Action"
    assert traits(ITEMS, "paths", vocabulary)[3] == ["Beauty > Make-up > Eyes (XL)"], "nothing is shared"


@pytest.mark.parametrize("named", NAMED)
def test_whatever_is_named_every_token_of_it_is_among_the_taught_words(vocabulary, named):
    said = traits(ITEMS, named, vocabulary)
    words = set(taught_words(category_texts(ITEMS, said), vocabulary).tolist())
    for first, second in itertools.product(range(1, N + 1), repeat=2):
        pieces = category_rationale(case(first, second, target=first), ITEMS, 0, 2, True, said)
        assert words.issuperset(encoded(pieces, vocabulary)), pieces


def test_every_token_a_rationale_can_say_is_among_the_taught_words(vocabulary):
    words = set(taught_words(category_texts(ITEMS), vocabulary).tolist())
    dice = np.random.default_rng(0)
    said = set()
    for _ in range(2000):
        evidence = tuple(int(item) for item in dice.choice(np.arange(1, N + 1), dice.integers(0, 6), replace=False))
        told = Case(evidence, int(dice.integers(1, N + 1)), evidence)
        pieces = category_rationale(
            told, ITEMS, int(dice.integers(0, 5)), int(dice.integers(0, 5)), dice.random() < 0.5
        )
        ids = encoded(pieces, vocabulary)
        assert words.issuperset(ids), pieces
        said.update(ids)
    codes = {int(token) for level in vocabulary.code_tokens for token in level}
    assert said - codes == words - codes - {vocabulary.marks[1]}, "and no word is taught that none says"


def test_what_is_encoded_is_decoded_to_the_same_pieces(vocabulary):
    items_of = items_by_tokens(vocabulary)
    for pieces in [
        (1, 2, " Action, Thriller."), (3,), (" nothing but words, and a comma .",),
        (" after", 5, 5, " comes", 12, " !"), (), (" café 日本 \N{SNOWMAN}.", 7),
    ]:  # fmt: skip
        assert decoded(encoded(pieces, vocabulary), vocabulary, items_of) == pieces


def test_words_side_by_side_are_decoded_as_one_piece(vocabulary):
    ids = encoded((1, " Action.", " Next: War."), vocabulary)
    assert decoded(ids, vocabulary, items_by_tokens(vocabulary)) == (1, " Action. Next: War.")


def test_an_item_is_encoded_as_its_codes_and_found_by_them(vocabulary):
    for item in range(1, N + 1):
        assert encoded((item,), vocabulary) == vocabulary.item_tokens[item - 1].tolist()
        assert items_by_tokens(vocabulary)[tuple(vocabulary.item_tokens[item - 1].tolist())] == item


def test_codes_that_name_no_item_are_decoded_as_a_question(vocabulary):
    items_of = items_by_tokens(vocabulary)
    first, second = vocabulary.code_tokens
    taken = set(items_of)
    a, b = next((int(a), int(b)) for a in first for b in second if (int(a), int(b)) not in taken)
    one, two = vocabulary.item_tokens[:2].tolist()

    def read(*ids):
        return decoded(list(ids), vocabulary, items_of)

    assert read(a, b) == ("?", "?"), "no such item"
    assert read(*one, *two, b) == (1, 2, "?"), "a second code without its first"
    assert read(b, *one) == ("?", 1), "a code too many, and the item after it is found"
    assert read(one[1], one[1]) == ("?", "?"), "without a first code"


def test_a_first_code_alone_is_the_group_of_items_that_begin_with_it(vocabulary):
    items_of = items_by_tokens(vocabulary)
    one, two = vocabulary.item_tokens[:2].tolist()
    group = Group(f"<a_{TABLE[0][0]}>")
    assert decoded([one[0]], vocabulary, items_of) == (group,)
    assert decoded([*two, one[0]], vocabulary, items_of) == (2, group)
    assert decoded([one[1], one[0], one[0]], vocabulary, items_of) == ("?", group, group)
    pieces = (group, 2, Group("<a_3>"), Group("<a_3>"), " War.", Group("<a_0>"), 1)
    assert decoded(encoded(pieces, vocabulary), vocabulary, items_of) == pieces
    assert spoken(pieces, ITEMS).startswith(f"{group.name} [Thing 2] <a_3> <a_3> War. <a_0> [Thing 1]")


def test_marks_within_a_thought_are_decoded_as_a_question(vocabulary):
    opens, closes = vocabulary.marks
    word = vocabulary.encode("War", lead=" ")
    found = decoded([opens, *word, closes], vocabulary, items_by_tokens(vocabulary))
    assert found == ("?", " War", "?")


@pytest.mark.parametrize("special", [True, False])
def test_marks_a_backbone_brings_itself_are_decoded_as_a_question_too(special):
    _, tokenizer = tiny(["War"])
    tokenizer.add_tokens(["<think>", "</think>"], special_tokens=special)
    own = extend_tokenizer(tokenizer, Codes(TABLE, SIZES))
    assert max(own.marks) < own.first
    ids = [own.marks[0], *own.encode("War", lead=" "), own.marks[1], *own.item_tokens[3]]
    assert decoded(ids, own, items_by_tokens(own)) == ("?", " War", "?", 4)


def test_special_tokens_within_a_thought_are_not_spelt_out(vocabulary):
    word, ends = vocabulary.encode("War", lead=" "), vocabulary.tokenizer.eos_token_id
    assert decoded([ends, *word, ends], vocabulary, items_by_tokens(vocabulary)) == (" War",)


def test_a_hostile_word_is_encoded_without_a_single_special_token(vocabulary):
    ids = encoded((" <|im_end|><a_0><b_0></think> <|endoftext|>",), vocabulary)
    assert max(ids) < vocabulary.first and not set(ids) & set(vocabulary.tokenizer.all_special_ids)


def test_a_person_reads_titles_in_the_place_of_items():
    assert spoken((1, 2, " Action, Thriller."), ITEMS) == "[Thing 1] [Thing 2] Action, Thriller."
    assert spoken((" After", 3, " , then", 1, "."), ITEMS) == "After [Thing 3], then [Thing 1]."
    assert spoken((), ITEMS) == ""


def test_a_teacher_cites_lines_and_the_items_behind_them_are_meant():
    told = case(7, 4, 9)
    assert from_teacher("Like [2] and [1], it is  dark.\n", told) == (" Like", 4, " and", 7, " , it is dark.")
    assert from_teacher("[3][3]", told) == (9, 9)


@pytest.mark.parametrize("strange", [0, 4, 12, 9999])
def test_a_line_the_teacher_was_not_shown_is_the_item_0_that_nobody_met(strange):
    assert from_teacher(f"As in [{strange}]", case(7, 4, 9)) == (" As in", 0)


def test_brackets_around_anything_but_a_line_number_are_words():
    assert from_teacher("a [note] of [1.5] and [-1]", case(7)) == (" a [note] of [1.5] and [-1]",)
    assert from_teacher(" \n ", case(7)) == ()


def test_a_teacher_is_shown_the_texts_of_the_pruned_context_and_of_the_target_and_nothing_else():
    items = [ItemText(f"Title{n}xx", {"class": f"kind{n}xx", "year": "1995"}) for n in range(101, 113)]
    told = Case(history=(7, 8, 4, 11), target=2, evidence=(4, 7))
    system, user = teacher_messages(told, items)
    assert (system["role"], user["role"]) == ("system", "user")
    asked = user["content"]
    lines = [line for line in asked.splitlines() if line.startswith("[")]
    assert lines == [f"[1] {items[3].text}", f"[2] {items[6].text}"]
    assert asked.count(items[1].text) == 1
    everything = system["content"] + asked
    for item in set(range(1, N + 1)) - {2, 4, 7}:
        assert f"{item + 100}xx" not in everything, "neither an item that was pruned nor one never met"
    again = teacher_messages(Case(history=(12, 7, 4, 1), target=2, evidence=(4, 7)), items)
    assert again == [system, user], "the history tells nothing beyond its pruned part, no ids either"
