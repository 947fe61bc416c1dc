"""What was said in explanation, kept on disk by content: asked once, whoever asks again and however often killed.

One SQLite file per data set; a key is the digest of everything an answer depends on.
"""

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

from recbole_think.errors import InputError

AT_ONCE = 500  # keys of one query


class Answers:
    """A file of answers."""

    def __init__(self, path: Path, fingerprint: str):
        """Open or make it.

        Args:
            path: the file.
            fingerprint: of the data set.

        Raises:
            InputError: the file holds answers about another data set, or is no such file.
        """
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with self._opened() as store:
                store.execute("create table if not exists facts (name text primary key, value text not null)")
                store.execute("create table if not exists answers (key text primary key, answer text not null)")
                store.execute("insert or ignore into facts values ('data_fingerprint', ?)", (fingerprint,))
                [found] = store.execute("select value from facts where name = 'data_fingerprint'").fetchone()
        except sqlite3.DatabaseError as why:
            raise InputError(
                f"{path} is not a file of rationales ({why}); name another in activation.rationales"
            ) from why
        if found != fingerprint:
            raise InputError(
                f"{path} holds rationales of another data set ({found}, this one is {fingerprint}); "
                f"name another file in activation.rationales"
            )

    @contextmanager
    def _opened(self) -> Iterator[sqlite3.Connection]:
        with (
            closing(sqlite3.connect(self.path, timeout=60)) as store,
            store,
        ):  # whole or not at all, also for two writers
            yield store

    def known(self, keys: Sequence[str]) -> dict[str, str]:
        """Answers there are, by key."""
        found: dict[str, str] = {}
        with self._opened() as store:
            for begin in range(0, len(keys), AT_ONCE):
                some = keys[begin : begin + AT_ONCE]
                marks = ",".join("?" * len(some))
                found.update(store.execute(f"select key, answer from answers where key in ({marks})", some))
        return found

    def add(self, answers: Mapping[str, str]) -> None:
        """Keep some more."""
        with self._opened() as store:
            store.executemany("insert or replace into answers values (?, ?)", list(answers.items()))
