"""What a publisher's folder holds, and what a source makes of it."""

import html
import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from recbole_think.corpus.convert.download import Remote
from recbole_think.corpus.convert.events import Events
from recbole_think.corpus.convert.rejects import Rejects
from recbole_think.corpus.convert.split import Split
from recbole_think.errors import InputError

CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")
TAG = re.compile(r"</?[a-zA-Z][^<>]*>")
LONGEST = 500  # letters of a value; publishers' pages leak into titles
Table = dict[str, dict[str, str]]  # raw id -> column -> text


@dataclass
class Raw:
    """Files as they were published, in one folder or below it."""

    folder: Path
    category: str = ""  # of Amazon: Beauty, All_Beauty, ...
    show: bool = True  # progress bars
    rejects: Rejects = field(default_factory=Rejects)
    used: list[Path] = field(default_factory=list)

    def find(self, *names: str, member: str = "", needed: bool = True) -> tuple[Path, str] | None:
        """Where a text is: the first of some files that is there, or a member of a ``.zip``, unpacked or not.

        Args:
            names: of files, the one preferred first.
            member: of the ``.zip`` files among them.
            needed: a text that is not there is an error.

        Raises:
            InputError: none is there.
        """
        if not self.folder.is_dir():
            raise InputError(f"--raw={self.folder} is no folder; it should hold {' or '.join(names)}")
        for name in names:
            inner = member if name.endswith(".zip") else ""
            for path in (
                self.folder / name,
                *([self.folder / member, self.folder / Path(member).name] if inner else []),
            ):
                if path.is_file():
                    self.used.append(path)
                    return path, inner if path.suffix == ".zip" else ""
        if needed:
            there = sorted(path.name for path in self.folder.iterdir())[:8]
            raise InputError(
                f"{self.folder} holds none of {', '.join(names)}{f' (or {member}, unpacked)' if member else ''}; "
                f"it has: {', '.join(there) or 'nothing'}"
            )
        return None

    def only(self, pattern: str) -> Path:
        """The one file whose name is like a pattern, for whose first ``*`` a category stands if one was named.

        Raises:
            InputError: there is none, or several.
        """
        wanted = pattern.replace("*", self.category, 1) if self.category else pattern
        found = sorted(self.folder.glob(wanted)) if self.folder.is_dir() else []
        if len(found) != 1:
            said = f"several: {', '.join(path.name for path in found)}; name one by --category=" if found else "none"
            raise InputError(f"--raw={self.folder} should hold one file {wanted}; it holds {said}")
        self.used.append(found[0])
        return found[0]


@dataclass(frozen=True)
class Source:
    """A publisher's format."""

    name: str
    title: str
    home: str  # its page
    cite: str
    terms: str  # what the publisher allows, in short
    files: str  # what the folder should hold
    events: Callable[[Raw], Events] | None
    items: Callable[[Raw, Collection[str]], Table] | None = None  # of those ids alone
    users: Callable[[Raw, Collection[str]], Table] | None = None
    timed: bool = True  # events have times; else places in a history stand for them
    categories: bool = False  # it comes in categories, one of which is to be named
    remotes: Callable[[str], Sequence[Remote]] | None = None  # files to fetch of a category; None: by hand alone
    split: Callable[[Raw], Split] | None = None  # it is published in parts, which are kept
    coded: bool = False  # its files of codes call items by the same ids


def clean(value: object) -> str:
    """A publisher's text as one cell of an atomic file, without markup; nothing where there is none."""
    return cell(TAG.sub(" ", html.unescape(str(value))))[:LONGEST].rstrip() if value is not None else ""


def category_path(value: Any) -> str:
    """Categories, widest first, as one path; of several paths the first, and words as they are."""
    if isinstance(value, list) and value and isinstance(value[0], list):
        value = value[0]
    return " > ".join(map(str, value)) if isinstance(value, list) else str(value or "")


def cell(text: str) -> str:
    """Text without tabs, ends of lines and double quotes, which no reader of atomic files takes alike."""
    whole = text.encode("utf-8", "replace").decode("utf-8")  # half a character becomes a question mark
    return " ".join(CONTROL.sub(" ", whole).replace('"', "''").split())
