"""What serving remembers: thoughts by version, and events in the order they came. One interface, two stores.

``sqlite.py`` for one machine, ``redis.py`` for many. Neither knows what a thought is: it is text with a stamp. All that
is told of a store here holds for both, and is tested with one contract.
"""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from recbole_think.errors import InputError


@dataclass(frozen=True)
class Entry:
    """What is kept of one user in a version."""

    stamp: str  # of what it was made from; another one means that it is to be made anew
    text: str


@dataclass(frozen=True)
class Event:
    """Something a user did."""

    number: int  # 1 = the first of all; events are ordered by it alone, never by a clock
    user: str
    item: str  # raw id


@dataclass(frozen=True)
class Version:
    """Thoughts about everybody that were made alike."""

    number: int
    facts: dict[str, Any]  # what they depend on besides what a user did


class Store(Protocol):
    """Thoughts and events.

    Whatever has returned is kept, even if the process, or the store's own, is killed in the next moment. Every method
    raises ``StoreError`` where the store cannot be reached.
    """

    def claim(self, facts: Mapping[str, Any]) -> None:
        """Say what the store is of, the first time; afterwards refuse anything else.

        Raises:
            InputError: it is of something else.
        """

    def facts(self) -> dict[str, Any]:
        """What the store is of; empty while nobody has said."""

    def begin(self, facts: Mapping[str, Any], shards: int) -> Version:
        """A version with these facts that is not finished yet: the one there is, or a new one.

        Raises:
            InputError: there is one that is being made in another number of shards.
        """

    def put(self, version: int, entries: Mapping[str, Entry]) -> None:
        """Keep entries by user, each of them whole, in place of what was there.

        Raises:
            InputError: the version is not there any more.
        """

    def stamps(self, version: int, users: Sequence[str]) -> dict[str, str]:
        """Stamps of those users of whom there is an entry."""

    def finish(self, version: int, shard: int) -> bool:
        """Say that a shard (from 0) is done. Once all are, the version becomes the current one, at once: True then."""

    def current(self) -> Version | None:
        """The version that is read."""

    def sweep(self) -> int:
        """Remove versions older than the current one; how many there were."""

    def get(self, users: Sequence[str]) -> dict[str, str]:
        """Texts of the current version, of those users of whom there is one."""

    def append(self, user: str, items: Sequence[str]) -> int:
        """Keep what a user did, one item at least, oldest first; number of the last event."""

    def events(self, users: Sequence[str]) -> dict[str, list[Event]]:
        """The latest ``MOST_EVENTS`` events of these users, oldest first; of one without events an empty list."""

    def since(self, number: int, most: int) -> list[Event]:
        """The first ``most`` events after number ``number``, in order."""

    def active(self) -> Iterable[str]:
        """All users who have events."""

    def alone(self, shard: int, shards: int) -> AbstractContextManager[None]:
        """Within the block no other process makes this shard, or shards of another number.

        One that is stopped for long, and goes on, may find another at its shard: both then make the same entries.

        Raises:
            InputError: one does.
        """

    def close(self) -> None:
        """Let go of files and connections."""


MOST_EVENTS = 1000  # of a user, that are read: what came before does not matter any more


class StoreError(Exception):
    """The store cannot be reached now; the message says which and why."""


def open_store(url: str) -> Store:
    """Open a store.

    Args:
        url: ``sqlite:///<file>`` or a plain path, made if it is not there; or ``redis://...``, ``rediss://...``,
            ``unix://...``.

    Raises:
        InputError: an address of another kind, a store that is not ours, or one that would lose what it was told.
    """
    scheme, _, rest = url.partition("://")
    if not rest:
        scheme, rest = "sqlite", f"/{url}"
    if scheme == "sqlite":
        from recbole_think.serving.store.sqlite import SqliteStore

        if not rest.removeprefix("/"):
            raise InputError(f"--store={url}: name a file, as in sqlite:///runs/store.sqlite3")
        return SqliteStore(Path(rest.removeprefix("/")).expanduser())
    if scheme in ("redis", "rediss", "unix"):
        from recbole_think.serving.store.redis import RedisStore

        return RedisStore(url)
    raise InputError(f"--store={scheme}://...: write sqlite:///<file> or redis://<host>:<port>/<number>")


GONE = "version {version} of {store} is not there any more: a later one has been finished; run the same command again"
OTHER_SHARDS = (
    "version {version} is being made in {found} shards, this is a job of {wanted}: finish it with --shard=<i>/{found}"
)
NOT_ALONE = (
    "another process is thinking ahead into {store} (shard {shard} of {shards}); wait for it, or give each process a "
    "--shard of its own, <i>/<number of processes>"
)


def require_claimed(found: Mapping[str, Any], wanted: Mapping[str, Any], store: str) -> None:
    """Refuse a store of something else.

    Raises:
        InputError: a fact differs.
    """
    for key, value in wanted.items():
        if found.get(key) != value:
            raise InputError(
                f"{store} was made with {key}={found.get(key)!r}, this is {key}={value!r}; use another --store"
            )
