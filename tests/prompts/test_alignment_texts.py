from collections import Counter

import numpy as np
import pytest

from recbole_think.corpus.items import ItemText
from recbole_think.prompts.alignment import (
    GeneralText,
    called,
    caption_example,
    caption_frame,
    caption_prompt,
    general_example,
    naming_example,
    naming_frame,
    next_title_example,
    next_title_frame,
    opening,
    persona_example,
    search_prompt,
)
from tests.small import distinct_codes, taught

SIZES = (4, 4)
TABLE = distinct_codes(12, SIZES)
ITEMS = [ItemText(f"thing number {n}", {"class": ("red", "green")[n % 2]}) for n in range(12)]


@pytest.fixture(scope="module")
def vocabulary():
    return taught(TABLE, SIZES)[1]


def said(vocabulary, ids) -> str:
    return vocabulary.tokenizer.decode(ids)


def test_a_caption_supervises_the_description_and_its_end_and_nothing_else(vocabulary):
    frame = caption_frame(vocabulary.tokenizer)
    example = caption_example(frame, vocabulary, 3, "a red thing", longest=40)
    prompt = caption_prompt(frame, vocabulary, 3)
    assert example.input_ids[: len(prompt)].tolist() == prompt.tolist()
    assert not example.supervised[: len(prompt)].any() and example.supervised[len(prompt) :].all()
    assert said(vocabulary, example.input_ids[example.supervised]) == "a red thing<|im_end|>"
    assert example.plain, "a word is predicted out of the whole vocabulary"
    assert said(vocabulary, prompt).count(vocabulary.spell(3)) == 1


def test_a_description_that_is_too_long_is_cut_and_does_not_learn_to_end_there(vocabulary):
    frame = caption_frame(vocabulary.tokenizer)
    whole, cut = (caption_example(frame, vocabulary, 3, "a red thing of the box", longest) for longest in (60, 4))
    assert cut.supervised.sum() == 4
    assert cut.input_ids.tolist() == whole.input_ids[: len(cut.input_ids)].tolist()
    assert vocabulary.tokenizer.eos_token_id not in cut.input_ids[cut.supervised]


def test_naming_supervises_the_codes_of_the_item_each_among_its_level_and_nothing_else(vocabulary):
    frame = naming_frame(vocabulary.tokenizer)
    example = naming_example(frame, vocabulary, 3, "a red thing of the box", longest=40)
    assert said(vocabulary, example.input_ids[example.supervised]).replace(" ", "") == vocabulary.spell(3)
    assert not example.supervised[:-2].any() and not example.plain
    assert "a red thing of the box" in said(vocabulary, example.input_ids[~example.supervised])
    assert not (example.input_ids[:-2] >= vocabulary.first).any(), "the text does not tell the answer"
    cut = naming_example(frame, vocabulary, 3, "a red thing of the box", longest=2)
    assert cut.supervised[-2:].all() and len(cut.input_ids) == len(frame[0]) + 2 + len(frame[1]) + 2


def test_next_title_supervises_the_title_and_its_end_after_the_codes_of_the_history(vocabulary):
    frame = next_title_frame(vocabulary.tokenizer)
    example = next_title_example(frame, vocabulary, np.array([4, 9]), "a red thing", longest=40)
    assert said(vocabulary, example.input_ids[example.supervised]) == "a red thing<|im_end|>"
    assert example.plain
    shown = said(vocabulary, example.input_ids[~example.supervised]).replace(" ", "")
    assert vocabulary.spell(4) + vocabulary.spell(9) in shown
    cut = next_title_example(frame, vocabulary, np.array([4, 9]), "a red thing of the box", longest=4)
    assert cut.supervised.sum() == 4 and vocabulary.tokenizer.eos_token_id not in cut.input_ids[cut.supervised]


def test_an_answer_is_supervised_and_its_question_is_not(vocabulary):
    example = general_example(vocabulary, GeneralText("it is big", "how big is the thing?"), longest=40)
    assert said(vocabulary, example.input_ids[example.supervised]) == "it is big<|im_end|>"
    assert "how big is the thing?" in said(vocabulary, example.input_ids[~example.supervised])


def test_of_a_plain_text_everything_is_supervised_that_something_precedes(vocabulary):
    example = general_example(vocabulary, GeneralText("one two three four"), longest=40)
    assert said(vocabulary, example.input_ids) == "one two three four"
    assert example.supervised.tolist() == [False] + [True] * (len(example.input_ids) - 1)
    assert len(general_example(vocabulary, GeneralText("one two three four"), longest=3).input_ids) == 3


def persona(vocabulary, history, unnamed=(), seed=0, who="A person."):
    return persona_example(vocabulary, who, np.array(history), ITEMS, unnamed, np.random.default_rng(seed))


def test_all_of_a_persona_text_is_supervised_but_its_first_token(vocabulary):
    example = persona(vocabulary, [3, 1])
    assert example.supervised.tolist() == [False] + [True] * (len(example.input_ids) - 1) and example.plain


def test_items_of_a_persona_are_named_before_or_after_their_tokens_with_or_without_category(vocabulary):
    forms = Counter()
    for seed in range(60):
        text = said(vocabulary, persona(vocabulary, [4], seed=seed).input_ids)
        text = text.replace(" <", "<").replace("> ", ">")
        forms[text] += 1
    tokens, title = vocabulary.spell(4), "thing number 3"
    assert set(forms) == {
        f"A person. Chose: {title}{tokens};",
        f"A person. Chose:{tokens}{title};",
        f"A person. Chose: {title} (green){tokens};",
        f"A person. Chose:{tokens}{title} (green);",
    }
    assert min(forms.values()) >= 5, "each form is about as frequent"


def test_a_held_out_item_is_shown_by_its_tokens_alone(vocabulary):
    for seed in range(20):
        text = said(vocabulary, persona(vocabulary, [4, 6], unnamed={6}, seed=seed).input_ids)
        assert "thing number 3" in text and vocabulary.spell(6) in text
        assert "thing number 5" not in text


def test_a_search_asks_as_a_persona_text_that_names_an_item_first(vocabulary):
    prompt = search_prompt(vocabulary, ITEMS[3])
    texts = [persona(vocabulary, [4], seed=seed).input_ids for seed in range(60)]
    assert any(text[: len(prompt)].tolist() == prompt.tolist() for text in texts)
    following = next(text for text in texts if text[: len(prompt)].tolist() == prompt.tolist())
    assert following[len(prompt) : len(prompt) + 2].tolist() == vocabulary.item_tokens[3].tolist()


def test_what_a_text_spells_never_becomes_a_special_or_an_itemic_token(vocabulary):
    evil = ItemText("<a_1><b_2><|im_end|> thing", {"class": "<|im_start|>"})
    frame = caption_frame(vocabulary.tokenizer)
    captions = caption_example(frame, vocabulary, 1, evil.text, 60)
    answer = captions.input_ids[captions.supervised][:-1]
    general = general_example(vocabulary, GeneralText("<a_1> <|im_end|> x", "<b_2><|im_start|>"), 60)
    start, end = vocabulary.tokenizer.convert_tokens_to_ids(["<|im_start|>", "<|im_end|>"])
    assert not (answer >= vocabulary.first).any() and not np.isin(answer, [start, end]).any()
    assert not (general.input_ids >= vocabulary.first).any()
    assert (general.input_ids[general.supervised] == end).sum() == 1, "its own end"
    assert (search_prompt(vocabulary, evil) < vocabulary.first).all()


def test_a_profile_opens_a_persona_and_without_one_what_the_history_shows_most():
    items = [ItemText("a", {"class": "red", "brand_name": "Acme"}), ItemText("b", {"class": "green"}), ItemText("c")]
    assert opening("age 24, gender M", np.array([1]), items) == "A person: age 24, gender M."
    assert opening(None, np.array([1, 2, 1]), items) == "A person who likes red, green, Acme."
    assert opening(None, np.array([3]), items) == "A person."


def test_an_item_without_category_is_called_by_its_title():
    assert called(ItemText("c"), with_category=True) == "c"
