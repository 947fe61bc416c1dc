"""The .item file, read literally: one ItemText per item of the catalogue.

Takes an atomic file and RecBole's raw ids in internal order; gives texts in that order, row r being item r + 1.
RecBole's own reader goes through pandas with quoting on, where one stray double quote is a parser error and a film
called "NA" disappears; here a line is a line and a tab is a tab. Knows nothing of tokenizers: what could be read as
a special token by any of them is defused at this door.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from recbole_think.corpus.files import read_table
from recbole_think.errors import InputError

TITLE_WORDS = ("title", "name")
CATEGORY_WORDS = ("categor", "class", "genre", "type")
MOST_WITHOUT_TEXT = 0.2
# <|im_start|>, <a_12>, </think>, <start_of_turn>, [INST], [PAD] ... whatever a tokenizer might treat as special
TOKEN_LIKE = re.compile(r"<(\|[^<>]{0,60}\||[^<>\s]{1,60})>|\[(/?[A-Z_]{2,20}\d*)\]")
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u00ad\u200b-\u200f\u2028-\u202f\u2060-\u206f\ufeff]+")


@dataclass(frozen=True)
class ItemText:
    """What the data set says of one item, safe to put into a prompt."""

    title: str
    fields: dict[str, str] = field(default_factory=dict)  # everything else, by column name

    @property
    def text(self) -> str:
        """Title and fields as one line, for encoders and captions."""
        return ". ".join([self.title, *(f"{name.replace('_', ' ')}: {value}" for name, value in self.fields.items())])

    @property
    def category(self) -> str | None:
        """The field that names the item's kind, if there is one."""
        return next((v for k, v in self.fields.items() if any(word in k.lower() for word in CATEGORY_WORDS)), None)


def neutralise(text: str) -> str:
    """Return ``text`` with nothing in it that could be read as a special or itemic token, on one line."""
    calm, before = CONTROL.sub(" ", text), None
    while calm != before:  # what stood inside one bracket may show itself once that is gone
        before = calm
        calm = TOKEN_LIKE.sub(lambda match: f"({match.group(1) or match.group(2)})".replace("|", "/"), calm)
        calm = calm.replace("<|", "(").replace("|>", ")")
    return " ".join(calm.split())


def read_items(path: Path, id_field: str, raw_ids: Sequence[str], lenient: bool = False) -> tuple[list[ItemText], int]:
    """Read the text of every item RecBole knows.

    Args:
        path: the ``.item`` file; all its token and token_seq columns are text.
        id_field: name of the id column.
        raw_ids: raw id per RecBole item, padding left out.
        lenient: call items by their raw id where the file is missing or says nothing (to show lists of any model).

    Returns:
        One ItemText per raw id, in that order, and how many had no text and carry their raw id instead.

    Raises:
        InputError: no file, a malformed line, an id listed twice, or over 20 % of the items without text.
    """
    try:
        rows = read_rows(path, id_field)
    except InputError:
        if not lenient:
            raise
        rows = {}
    items = [_item_text(rows.get(raw, {}), raw) for raw in raw_ids]
    without = sum(1 for raw in raw_ids if not any(rows.get(raw, {}).values()))
    if not lenient and without > MOST_WITHOUT_TEXT * len(raw_ids):
        raise InputError(
            f"{path}: {without} of {len(raw_ids)} items have no text (at most 20 % may); "
            f"are the ids in column {id_field!r} those of the .inter file (such as {raw_ids[0]!r})?"
        )
    return items, without


def read_rows(path: Path, id_field: str) -> dict[str, dict[str, str]]:
    """Map raw id -> {column: text} for the text columns of an ``.item`` file, read literally.

    Raises:
        InputError: no file, no id column, a line with another number of cells, or an id listed twice.
    """
    if not path.is_file():
        raise InputError(f"{path} does not exist: OneRecThink reads item titles from it (id, title, anything else)")
    return read_table(path, id_field, "item", ("token", "token_seq"))


def _item_text(row: dict[str, str], raw: str) -> ItemText:
    texts = {name: neutralise(text) for name, text in row.items()}
    texts = {name: text for name, text in texts.items() if text}
    title_column = next((name for name in texts if any(word in name.lower() for word in TITLE_WORDS)), None)
    title_column = title_column or next(iter(texts), None)
    return ItemText(texts.pop(title_column) if title_column else neutralise(raw), texts)
