import re
from dataclasses import dataclass

import pytest

from recbole_think.errors import InputError
from recbole_think.options import check, near_hint, read_options


@dataclass(frozen=True)
class Cup:
    size: int = 3
    warmth: float = 0.5
    label: str = "plain"
    lid: bool = False
    stickers: tuple = ()

    def __post_init__(self):
        check(self.size > 0, f"cup.size must be positive, got {self.size}")


def test_nothing_given_gives_the_defaults():
    assert read_options(Cup, None, "cup") == read_options(Cup, {}, "cup") == Cup()


def test_what_is_given_is_taken_and_the_rest_is_default():
    given = {"size": 4, "warmth": 1, "label": "", "lid": True, "stickers": ["a"]}
    cup = read_options(Cup, given, "cup")
    assert (cup.size, cup.warmth, cup.label, cup.lid, list(cup.stickers)) == (4, 1, "", True, ["a"])
    assert read_options(Cup, {"lid": True}, "cup") == Cup(lid=True)


def test_an_unknown_key_is_refused_with_the_nearest_and_all_known():
    message = re.escape(
        "unknown option cup.warmht; did you mean cup.warmth? (known: size, warmth, label, lid, stickers)"
    )
    with pytest.raises(InputError, match=message):
        read_options(Cup, {"warmht": 1.0}, "cup")
    with pytest.raises(InputError, match=r"unknown option cup\.zzz \(known"):
        read_options(Cup, {"zzz": 1}, "cup")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("size", "3"), ("size", 3.0), ("size", True), ("size", None), ("size", [3]), ("warmth", "hot"),
        ("warmth", True), ("warmth", None), ("label", 3), ("label", None), ("lid", 1), ("lid",
        "yes"), ("stickers", "abc"),
        ("stickers", 3), ("stickers", {"a": 1}),
    ],
)  # fmt: skip
def test_a_value_of_another_kind_is_refused_by_its_name_and_shown(key, value):
    with pytest.raises(InputError, match=rf"cup\.{key} must be .*{re.escape(repr(value))}"):
        read_options(Cup, {key: value}, "cup")


@pytest.mark.parametrize("block", [3, "size=3", ["size"], True])
def test_a_block_that_is_no_block_is_refused(block):
    with pytest.raises(InputError, match="cup must be a block of options"):
        read_options(Cup, block, "cup")


def test_the_class_judges_its_own_values():
    with pytest.raises(InputError, match=r"cup\.size must be positive, got 0"):
        read_options(Cup, {"size": 0}, "cup")


def test_a_hint_is_given_only_for_something_near():
    assert near_hint("modle", ["model", "data"]) == "; did you mean model?"
    assert near_hint("modle", ["model"], "cup.") == "; did you mean cup.model?"
    assert near_hint("xyz", ["model", "data"]) == ""


def test_every_options_class_of_the_model_accepts_its_own_defaults():
    from recbole_think.model import BLOCKS

    for name, cls in BLOCKS.items():
        assert read_options(cls, {}, name) == cls()
