"""The store of many machines: a Redis server (or one that speaks as it does), which must keep an append-only file.

Every change of several keys is one script, which Redis runs whole or not at all and writes down as one. Nothing is
asked again by itself: an event that may have been kept is not kept twice.
"""

import json
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from secrets import token_hex
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
from recbole_think.serving.store.scripts import SCRIPTS

PREFIX = "recbole_think:"
FORMAT = 1
TIMEOUT_S = 2.0  # of an answer
TOGETHER = 500  # users of one question
LEASE_MS = 4000  # a process that makes a shard and is not heard of for so long has lost it
LOADING_S = 60.0  # a server that has just started reads its file first


class RedisStore:
    """See ``Store``."""

    def __init__(self, url: str):
        """Connect.

        Raises:
            InputError: the package is missing, nobody answers there, or what is there keeps no append-only file.
        """
        try:
            import redis
            from redis.backoff import NoBackoff
            from redis.retry import Retry
        except ImportError as why:
            raise InputError('--store=redis://... needs the package redis: pip install "recbole_think[serve]"') from why
        self.errors: tuple[type[Exception], ...] = (redis.RedisError, OSError)
        self.loading = redis.BusyLoadingError
        try:
            self.client: Any = redis.Redis.from_url(
                url, decode_responses=True, socket_timeout=TIMEOUT_S, socket_connect_timeout=TIMEOUT_S,
                retry=Retry(NoBackoff(), 0), retry_on_error=[],
            )  # fmt: skip
        except (ValueError, TypeError) as why:
            raise InputError(f"--store={_shown(url)}: {why}") from why
        self.url = _shown(url)
        self._require_safe()
        self._scripts = {name: self.client.register_script(text) for name, text in SCRIPTS.items()}

    def _require_safe(self) -> None:
        until = time.monotonic() + LOADING_S
        while True:
            try:
                found, memory = self.client.info("persistence"), self.client.info("memory")
                break
            except self.loading as why:
                if time.monotonic() > until:
                    raise InputError(f"--store={self.url} is still reading its file: {why}") from why
                time.sleep(0.1)
            except TypeError as why:  # a part of the address that redis-py does not know
                raise InputError(f"--store={self.url}: {why}") from why
            except self.errors as why:
                raise InputError(f"--store={self.url}: {why}; is the server there?") from why
        if not found.get("aof_enabled"):
            raise InputError(
                f"--store={self.url} keeps no append-only file and would lose events when it stops: start it with "
                f"--appendonly yes, or say CONFIG SET appendonly yes"
            )
        policy = str(memory.get("maxmemory_policy", ""))
        if policy.startswith("allkeys"):  # others drop keys alone that are to run out, and ours are not
            raise InputError(
                f"--store={self.url} drops whatever it likes when memory is short (maxmemory-policy {policy}), "
                f"events too: say CONFIG SET maxmemory-policy noeviction"
            )

    @contextmanager
    def _asking(self) -> Iterator[Any]:
        try:
            yield self.client
        except self.errors as why:
            raise StoreError(f"{self.url}: {why}") from why

    def _run(self, script: str, keys: Sequence[str], values: Sequence[Any]) -> Any:
        with self._asking():
            return self._scripts[script]([PREFIX + key for key in keys], values)

    def claim(self, facts: Mapping[str, Any]) -> None:
        """See ``Store``."""
        with self._asking() as client:
            client.set(f"{PREFIX}facts", json.dumps({"format": FORMAT, **facts}), nx=True)
        require_claimed(self.facts(), {"format": FORMAT, **facts}, self.url)

    def facts(self) -> dict[str, Any]:
        """See ``Store``."""
        with self._asking() as client:
            return json.loads(client.get(f"{PREFIX}facts") or "{}")

    def begin(self, facts: Mapping[str, Any], shards: int) -> Version:
        """See ``Store``."""
        told = json.dumps(facts, sort_keys=True)
        number, found = self._run("begin", ["current", "newest", "version:", "versions"], [told, shards])
        if found != shards:
            raise InputError(OTHER_SHARDS.format(version=number, found=found, wanted=shards))
        return Version(number, json.loads(told))

    def put(self, version: int, entries: Mapping[str, Entry]) -> None:
        """See ``Store``."""
        for some in _parts(list(entries)):
            told = [part for user in some for part in (user, entries[user].text, entries[user].stamp)]
            keys = [f"{what}:{version}" for what in ("version", "thoughts", "stamps")]
            if not self._run("put", keys, told):
                raise InputError(GONE.format(version=version, store=self.url))

    def stamps(self, version: int, users: Sequence[str]) -> dict[str, str]:
        """See ``Store``."""
        if not users:
            return {}
        with self._asking() as client:
            found = client.hmget(f"{PREFIX}stamps:{version}", list(users))
        return _present(users, found)

    def finish(self, version: int, shard: int) -> bool:
        """See ``Store``."""
        return bool(self._run("finish", [f"version:{version}", f"finished:{version}", "current"], [version, shard]))

    def current(self) -> Version | None:
        """See ``Store``."""
        found = self._run("current", ["current", "version:"], [])
        return Version(int(found[0]), json.loads(found[1])) if found else None

    def sweep(self) -> int:
        """See ``Store``."""
        with self._asking() as client:
            current = int(client.get(f"{PREFIX}current") or 0)
            old = sorted(number for number in map(int, client.smembers(f"{PREFIX}versions")) if number < current)
            for number in old:  # what lists it last: a kill in between leaves something to go on with
                client.unlink(*(f"{PREFIX}{what}:{number}" for what in ("version", "thoughts", "stamps", "finished")))
                client.srem(f"{PREFIX}versions", number)
        return len(old)

    def get(self, users: Sequence[str]) -> dict[str, str]:
        """See ``Store``."""
        found: dict[str, str] = {}
        for some in _parts(users):
            found |= _present(some, self._run("get", ["current", "thoughts:"], some))
        return found

    def append(self, user: str, items: Sequence[str]) -> int:
        """See ``Store``."""
        told = [part for item in items for part in (json.dumps([user, item]), item)]
        return self._run("append", ["events", f"of:{user}", "active"], [user, *told])

    def events(self, users: Sequence[str]) -> dict[str, list[Event]]:
        """See ``Store``."""
        with self._asking() as client, client.pipeline(transaction=False) as many:
            for user in users:
                many.lrange(f"{PREFIX}of:{user}", -MOST_EVENTS, -1)
            found = many.execute()
        return {user: [_event(user, line) for line in lines] for user, lines in zip(users, found, strict=True)}

    def since(self, number: int, most: int) -> list[Event]:
        """See ``Store``."""
        with self._asking() as client:
            lines = client.lrange(f"{PREFIX}events", number, number + most - 1)
        return [Event(place, *json.loads(line)) for place, line in enumerate(lines, start=number + 1)]

    def active(self) -> Iterable[str]:
        """See ``Store``."""
        with self._asking() as client:
            return sorted(client.sscan_iter(f"{PREFIX}active", count=1000))

    @contextmanager
    def alone(self, shard: int, shards: int) -> Iterator[None]:
        """See ``Store``; a lease that is renewed, and runs out when this process is killed."""
        owner, field, over = token_hex(8), f"{shards}-{shard}", threading.Event()

        def take() -> bool:
            return bool(self._run("lease", ["locks"], [field, owner, LEASE_MS]))

        until = time.monotonic() + LEASE_MS / 1000 + 1  # whoever was killed has lost it by then
        while not take():
            if time.monotonic() > until:
                raise InputError(NOT_ALONE.format(store=self.url, shard=shard, shards=shards))
            time.sleep(0.2)

        def renew() -> None:
            while not over.wait(LEASE_MS / 4000):
                with suppress(StoreError):  # the work itself will say so
                    take()

        beat = threading.Thread(target=renew, daemon=True)
        beat.start()
        try:
            yield
        finally:
            over.set()
            beat.join()
            with suppress(StoreError):
                self._run("let_go", ["locks"], [field, owner])

    def close(self) -> None:
        """See ``Store``."""
        self.client.close()


def _present(users: Sequence[str], found: Sequence[str | None]) -> dict[str, str]:
    return {user: text for user, text in zip(users, found, strict=False) if text is not None}


def _shown(url: str) -> str:
    """An address without what is secret in it."""
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{rest.rpartition('@')[2].partition('?')[0]}"


def _parts(users: Sequence[str]) -> Iterator[list[str]]:
    """Users as many at a time as one script takes."""
    for begin in range(0, len(users), TOGETHER):
        yield list(users[begin : begin + TOGETHER])


def _event(user: str, line: str) -> Event:
    number, _, item = line.partition(" ")
    return Event(int(number), user, item)
