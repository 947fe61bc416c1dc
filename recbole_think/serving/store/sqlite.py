"""The store of one machine: a SQLite file in WAL mode, readable while it is written, synced at every commit.

Processes of one machine may share it; a file on network storage must not be shared by several machines (SQLite's locks
do not hold there): that is what ``redis.py`` is for.
"""

import fcntl
import glob
import json
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from recbole_think.errors import InputError
from recbole_think.serving.store import (
    NOT_ALONE,
    OTHER_SHARDS,
    Entry,
    Event,
    StoreError,
    Version,
    require_claimed,
)

SCHEMA = """
create table if not exists facts (name text primary key, value text not null) without rowid;
create table if not exists versions (number integer primary key autoincrement, facts text not null,
                                     shards integer not null, current integer not null default 0);
create table if not exists finished (version integer, shard integer, primary key (version, shard)) without rowid;
create table if not exists thoughts (version integer, user text, stamp text not null, text text not null,
                                     primary key (version, user)) without rowid;
create table if not exists events (number integer primary key autoincrement, user text not null, item text not null);
create index if not exists events_of_user on events (user, number);
"""
OURS, FORMAT = 0x72626B74, 1  # in the header of the file: whose it is, and what its tables are
PATIENCE_S = 30.0  # for whoever writes at the same moment
TOGETHER = 500  # users named in one question


class SqliteStore:
    """See ``Store``."""

    def __init__(self, path: Path):
        """Open the file, or make it.

        Raises:
            InputError: it is no file of ours, or cannot be written.
        """
        self.path, self._own, self._lock = path, threading.local(), threading.Lock()
        self._opened: list[sqlite3.Connection] = []
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            found = self._connection.execute("pragma application_id").fetchone()[0]
            tables = self._connection.execute("select count(*) from sqlite_master").fetchone()[0]
            if found != OURS and (found or tables):
                raise InputError(f"--store={path} is a SQLite file of something else; name another file")
            self._connection.executescript(f"begin immediate; pragma application_id={OURS}; {SCHEMA} commit;")
        except (sqlite3.Error, OSError) as why:
            raise InputError(f"--store={path} cannot be opened: {why}") from why

    @property
    def _connection(self) -> sqlite3.Connection:
        """Of this thread."""
        found = getattr(self._own, "connection", None)
        if found is None:
            found = sqlite3.connect(self.path, timeout=PATIENCE_S, isolation_level=None, check_same_thread=False)
            found.execute("pragma journal_mode=wal")
            found.execute("pragma synchronous=full")
            self._own.connection = found
            with self._lock:
                self._opened.append(found)
        return found

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

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        try:
            yield self._connection
        except sqlite3.Error as why:
            raise StoreError(f"{self.path}: {why}") from why

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
            if row is None or done < row[0]:  # None: a later version has been finished meanwhile
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

    def events(self, users: Sequence[str]) -> dict[str, list[str]]:
        """See ``Store``."""
        found: dict[str, list[str]] = {user: [] for user in users}
        question = "select user, item from events where user in ({}) order by user, number"
        for user, item in self._of_users(question, list(found)):
            found[user].append(item)
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
                others = self.path.parent.glob(f"{glob.escape(self.path.name)}.*-*.lock")
                other = any(_held(path) for path in others if not path.name.startswith(f"{self.path.name}.{shards}-"))
                if other or not _taken(mine):
                    raise InputError(NOT_ALONE.format(store=self.path, shard=shard, shards=shards))
            yield

    def _lock_file(self, name: str) -> Path:
        return self.path.with_name(f"{self.path.name}.{name}.lock")

    def close(self) -> None:
        """See ``Store``."""
        with self._lock:
            for connection in self._opened:
                connection.close()
            self._opened.clear()
        self._own = threading.local()


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
