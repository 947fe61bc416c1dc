"""The store of one machine: a SQLite file in WAL mode, readable while it is written, synced at every commit.

Processes of one machine may share it; a file on network storage must not be shared by several machines (SQLite's locks
do not hold there): that is what ``redis.py`` is for.
"""

import fcntl
import json
import re
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from queue import Empty, LifoQueue
from typing import Any

from recbole_think.errors import InputError
from recbole_think.serving.store import (
    GONE,
    MOST_EVENTS,
    NOT_ALONE,
    OTHER_SHARDS,
    Entry,
    Event,
    StoreError,
    Version,
    require_claimed,
)

SCHEMA = (
    "create table if not exists facts (name text primary key, value text not null) without rowid",
    "create table if not exists versions (number integer primary key autoincrement, facts text not null, "
    "shards integer not null, current integer not null default 0)",
    "create table if not exists finished (version integer, shard integer, primary key (version, shard)) without rowid",
    "create table if not exists thoughts (version integer, user text, stamp text not null, text text not null, "
    "primary key (version, user)) without rowid",
    "create table if not exists events (number integer primary key autoincrement, user text not null, "
    "item text not null)",
    "create index if not exists events_of_user on events (user, number)",
)
OURS = 0x72626B74  # in the header of the file: whose it is
FORMAT = 1  # of the tables
PATIENCE_S = 30.0  # for whoever writes at the same moment
TOGETHER = 500  # users named in one question


class SqliteStore:
    """See ``Store``."""

    def __init__(self, path: Path):
        """Open the file, or make it.

        Raises:
            InputError: it is no file of ours, or cannot be written.
        """
        self.path = path
        self._free: LifoQueue[sqlite3.Connection] = LifoQueue()  # as many as were ever in use at the same moment
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with closing(sqlite3.connect(path, timeout=PATIENCE_S, isolation_level=None)) as connection:
                self._make(connection)
                connection.execute("pragma journal_mode=wal")
        except (sqlite3.Error, OSError) as why:
            raise InputError(f"--store={path} cannot be opened: {why}") from why

    def _make(self, connection: sqlite3.Connection) -> None:
        """Make the tables where there is nothing; leave a file of somebody else's as it is."""
        connection.execute("begin immediate")  # of several that make it at once, one does
        found = connection.execute("pragma application_id").fetchone()[0]
        tables = connection.execute("select count(*) from sqlite_master").fetchone()[0]
        if found != OURS and (found or tables):
            connection.execute("rollback")
            raise InputError(f"--store={self.path} is a SQLite file of something else; name another file")
        connection.execute(f"pragma application_id={OURS}")
        for statement in SCHEMA:
            connection.execute(statement)
        connection.execute("commit")

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        """A connection that nobody else uses now."""
        try:
            try:
                connection = self._free.get_nowait()
            except Empty:
                connection = sqlite3.connect(
                    self.path, timeout=PATIENCE_S, isolation_level=None, check_same_thread=False
                )
                connection.execute("pragma synchronous=full")
            try:
                yield connection
            finally:
                self._free.put(connection)
        except sqlite3.Error as why:
            raise StoreError(f"{self.path}: {why}") from why

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """All or nothing, and nobody else writes meanwhile."""
        with self._reading() as connection:
            connection.execute("begin immediate")
            try:
                yield connection
                connection.execute("commit")
            except BaseException:
                with suppress(sqlite3.Error):
                    connection.execute("rollback")
                raise

    def claim(self, facts: Mapping[str, Any]) -> None:
        """See ``Store``."""
        with self._writing() as connection:
            connection.execute(
                "insert or ignore into facts values ('store', ?)", (json.dumps({"format": FORMAT, **facts}),)
            )
        require_claimed(self.facts(), {"format": FORMAT, **facts}, str(self.path))

    def facts(self) -> dict[str, Any]:
        """See ``Store``."""
        with self._reading() as connection:
            row = connection.execute("select value from facts where name = 'store'").fetchone()
        return json.loads(row[0]) if row else {}

    def begin(self, facts: Mapping[str, Any], shards: int) -> Version:
        """See ``Store``."""
        told = json.dumps(facts, sort_keys=True)
        with self._writing() as connection:
            row = connection.execute(
                "select number, shards from versions where facts = ? and not current and number > "
                "coalesce((select max(number) from versions where current), 0) order by number desc",
                (told,),
            ).fetchone()
            if row is None:
                number = connection.execute(
                    "insert into versions (facts, shards) values (?, ?)", (told, shards)
                ).lastrowid
                return Version(int(number or 0), json.loads(told))
        if row[1] != shards:
            raise InputError(OTHER_SHARDS.format(version=row[0], found=row[1], wanted=shards))
        return Version(row[0], json.loads(told))

    def put(self, version: int, entries: Mapping[str, Entry]) -> None:
        """See ``Store``."""
        rows = [(version, user, entry.stamp, entry.text) for user, entry in entries.items()]
        with self._writing() as connection:
            if connection.execute("select 1 from versions where number = ?", (version,)).fetchone() is None:
                raise InputError(GONE.format(version=version, store=self.path))
            connection.executemany("insert or replace into thoughts values (?, ?, ?, ?)", rows)

    def stamps(self, version: int, users: Sequence[str]) -> dict[str, str]:
        """See ``Store``."""
        return dict(
            self._of_users("select user, stamp from thoughts where version = ? and user in ({})", users, version)
        )

    def _of_users(self, question: str, users: Sequence[str], *before: Any) -> Iterator[tuple[Any, ...]]:
        with self._reading() as connection:
            for begin in range(0, len(users), TOGETHER):
                some = users[begin : begin + TOGETHER]
                yield from connection.execute(question.format(", ".join("?" * len(some))), (*before, *some)).fetchall()

    def finish(self, version: int, shard: int) -> bool:
        """See ``Store``."""
        with self._writing() as connection:
            connection.execute("insert or ignore into finished values (?, ?)", (version, shard))
            [done] = connection.execute("select count(*) from finished where version = ?", (version,)).fetchone()
            row = connection.execute("select shards from versions where number = ?", (version,)).fetchone()
            later = connection.execute("select 1 from versions where current and number > ?", (version,)).fetchone()
            if row is None or later or done < row[0]:  # None: a later version has even been swept behind
                return False
            connection.execute("update versions set current = (number = ?)", (version,))
        return True

    def current(self) -> Version | None:
        """See ``Store``."""
        with self._reading() as connection:
            row = connection.execute("select number, facts from versions where current").fetchone()
        return row and Version(row[0], json.loads(row[1]))

    def sweep(self) -> int:
        """See ``Store``."""
        with self._writing() as connection:
            older = "< (select number from versions where current)"
            connection.execute(f"delete from thoughts where version {older}")
            connection.execute(f"delete from finished where version {older}")
            return connection.execute(f"delete from versions where number {older}").rowcount

    def get(self, users: Sequence[str]) -> dict[str, str]:
        """See ``Store``."""
        current = "(select number from versions where current)"
        question = f"select user, text from thoughts where version = {current} and user in ({{}})"
        return dict(self._of_users(question, users))

    def append(self, user: str, items: Sequence[str]) -> int:
        """See ``Store``."""
        with self._writing() as connection:
            connection.executemany("insert into events (user, item) values (?, ?)", [(user, item) for item in items])
            return connection.execute("select coalesce(max(number), 0) from events").fetchone()[0]

    def events(self, users: Sequence[str]) -> dict[str, list[Event]]:
        """See ``Store``."""
        found: dict[str, list[Event]] = {user: [] for user in users}
        question = "select number, user, item from events where user = ? order by number desc limit ?"
        with self._reading() as connection:
            for user in found:
                rows = connection.execute(question, (user, MOST_EVENTS)).fetchall()
                found[user] = [Event(*row) for row in reversed(rows)]
        return found

    def since(self, number: int, most: int) -> list[Event]:
        """See ``Store``."""
        with self._reading() as connection:
            question = "select number, user, item from events where number > ? order by number limit ?"
            return [Event(*row) for row in connection.execute(question, (number, most)).fetchall()]

    def active(self) -> Iterable[str]:
        """See ``Store``."""
        with self._reading() as connection:
            return [user for (user,) in connection.execute("select distinct user from events order by user").fetchall()]

    @contextmanager
    def alone(self, shard: int, shards: int) -> Iterator[None]:
        """See ``Store``; files beside the store, of which a kill lets go."""
        with self._lock_file(f"{shards}-{shard}").open("w") as mine:
            with self._lock_file("asking").open("w") as asking:
                fcntl.flock(asking, fcntl.LOCK_EX)
                ours = re.compile(re.escape(self.path.name) + r"\.(\d+)-\d+\.lock")
                found = ((ours.fullmatch(path.name), path) for path in self.path.parent.iterdir())
                other = any(_held(path) for name, path in found if name and int(name[1]) != shards)
                if other or not _taken(mine):
                    raise InputError(NOT_ALONE.format(store=self.path, shard=shard, shards=shards))
            yield

    def _lock_file(self, name: str) -> Path:
        return self.path.with_name(f"{self.path.name}.{name}.lock")

    def close(self) -> None:
        """See ``Store``."""
        with suppress(Empty):
            while True:
                self._free.get_nowait().close()


def _taken(file: Any) -> bool:
    """Lock an open file if nobody has."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _held(path: Path) -> bool:
    with path.open("w") as file:
        return not _taken(file)
