"""One contract, two stores: SQLite and a real Redis server."""

import sqlite3
import subprocess
import sys
import threading
import time

import pytest

from recbole_think.errors import InputError
from recbole_think.serving.store import MOST_EVENTS, Entry, Event, StoreError, open_store
from tests.redis_server import RedisServer

FACTS = {"weights": "abc", "depth": 2}
ODD = ["a:b", "of:a", " a", "a\u0000b", "é", "e\u0301", "current", "*", "x' or '1'='1", "\U0001f600", "1", "01"]


@pytest.fixture
def store(store_url):
    found = open_store(store_url)
    yield found
    found.close()


def items(store, users):
    return {user: [event.item for event in events] for user, events in store.events(users).items()}


def made(store, entries=None, facts=FACTS):
    """A finished version."""
    version = store.begin(facts, 1)
    store.put(version.number, entries or {"u": Entry("s", "t")})
    assert store.finish(version.number, 0)
    return version


def test_an_empty_store_knows_nothing(store):
    assert store.current() is None and store.get(["u"]) == {} and store.events(["u"]) == {"u": []}
    assert store.since(0, 10) == [] and list(store.active()) == [] and store.sweep() == 0
    assert store.get([]) == {} and store.events([]) == {} and store.stamps(1, []) == {}


def test_thoughts_are_read_once_their_version_is_whole_and_not_before(store):
    version = store.begin(FACTS, 2)
    store.put(version.number, {"u": Entry("s", "t"), "v": Entry("s2", "t2")})
    assert store.get(["u"]) == {} and store.current() is None
    assert store.stamps(version.number, ["u", "v", "w"]) == {"u": "s", "v": "s2"}
    assert not store.finish(version.number, 0) and not store.finish(version.number, 0) and store.current() is None
    assert store.finish(version.number, 1)
    assert store.current().number == version.number and store.current().facts == FACTS
    assert store.get(["u", "w", "v"]) == {"u": "t", "v": "t2"}


def test_a_version_takes_the_place_of_another_at_once_and_the_old_one_goes_after(store):
    old = made(store)
    new = store.begin({**FACTS, "weights": "def"}, 1)
    assert new.number > old.number
    store.put(new.number, {"v": Entry("s", "new")})
    assert store.get(["u", "v"]) == {"u": "t"}
    assert store.finish(new.number, 0)
    assert store.get(["u", "v"]) == {"v": "new"} and store.current().facts["weights"] == "def"
    assert store.stamps(old.number, ["u"]) == {"u": "s"}, "until it is swept"
    assert store.sweep() == 1 and store.sweep() == 0
    assert store.stamps(old.number, ["u"]) == {} and store.get(["v"]) == {"v": "new"}


def test_a_shard_that_is_done_late_does_not_bring_a_version_back(store):
    old = store.begin(FACTS, 2)
    store.finish(old.number, 0)
    made(store, facts={"weights": "def"})
    for _ in range(2):  # before it is swept, and after
        assert not store.finish(old.number, 1)
        assert store.current().facts == {"weights": "def"} and store.get(["u"]) == {"u": "t"}
        store.sweep()
    with pytest.raises(InputError, match="not there any more"):
        store.put(old.number, {"u": Entry("s", "late")})
    assert store.stamps(old.number, ["u"]) == {}


def test_of_a_long_life_the_latest_events_are_read(store):
    for part in range(0, 1300, 100):
        store.append("u", [f"i{number}" for number in range(part, part + 100)])
    told = store.events(["u"])["u"]
    assert len(told) == MOST_EVENTS and told[0] == Event(301, "u", "i300") and told[-1] == Event(1300, "u", "i1299")


def test_an_unfinished_version_is_gone_on_with_and_one_of_other_facts_is_begun_anew(store):
    version = store.begin(FACTS, 2)
    assert store.begin(dict(reversed(FACTS.items())), 2).number == version.number
    assert store.begin({**FACTS, "depth": 1}, 2).number != version.number
    with pytest.raises(InputError, match="in 2 shards, this is a job of 3"):
        store.begin(FACTS, 3)
    store.finish(version.number, 0), store.finish(version.number, 1)
    assert store.begin(FACTS, 2).number != version.number


def test_an_entry_is_replaced_whole(store):
    version = made(store, {"u": Entry("s", "t"), "v": Entry("s", "t")})
    store.put(version.number, {"u": Entry("s2", "t2")})
    assert store.get(["u", "v"]) == {"u": "t2", "v": "t"} and store.stamps(version.number, ["u"]) == {"u": "s2"}


def test_events_come_back_in_the_order_they_came_in(store):
    assert store.append("u", ["a", "b"]) == 2 and store.append("v", ["c"]) == 3 and store.append("u", ["a"]) == 4
    assert items(store, ["u", "v", "w"]) == {"u": ["a", "b", "a"], "v": ["c"], "w": []}
    assert [event.number for event in store.events(["u"])["u"]] == [1, 2, 4]
    everything = [Event(1, "u", "a"), Event(2, "u", "b"), Event(3, "v", "c"), Event(4, "u", "a")]
    assert store.since(0, 10) == everything and store.since(2, 1) == everything[2:3] and store.since(4, 5) == []
    assert list(store.active()) == ["u", "v"]


def test_nothing_that_a_user_may_be_called_leads_to_another(store):
    version = made(store, {user: Entry(f"s{number}", f"t{number}") for number, user in enumerate(ODD)})
    for number, user in enumerate(ODD):
        store.append(user, [f"i{number}"])
    assert store.get(ODD) == {user: f"t{number}" for number, user in enumerate(ODD)}
    assert store.stamps(version.number, ODD) == {user: f"s{number}" for number, user in enumerate(ODD)}
    assert items(store, ODD) == {user: [f"i{number}"] for number, user in enumerate(ODD)}
    assert sorted(store.active()) == sorted(ODD)
    assert [(event.user, event.item) for event in store.since(0, 99)] == [(u, f"i{n}") for n, u in enumerate(ODD)]


def test_many_users_are_asked_about_at_once(store):
    users = [f"u{number}" for number in range(9000)]
    version = made(store, {user: Entry(user, user) for user in users})
    assert store.get(users) == store.stamps(version.number, users) == dict(zip(users, users, strict=True))


def test_a_store_is_of_one_catalogue(store, store_url):
    store.claim({"catalogue": "one"})
    store.claim({"catalogue": "one"})
    again = open_store(store_url)
    with pytest.raises(InputError, match="was made with catalogue='one', this is catalogue='two'"):
        again.claim({"catalogue": "two"})
    again.close()


def test_what_is_told_by_many_at_once_is_all_kept(store, store_url):
    def tell(name):
        mine = open_store(store_url)
        for number in range(25):
            mine.append(name, [f"{name}{number}", "x"])
        mine.close()

    threads = [threading.Thread(target=tell, args=(name,)) for name in "abcd"]
    [thread.start() for thread in threads], [thread.join() for thread in threads]
    found = store.since(0, 1000)
    assert [event.number for event in found] == list(range(1, 201))
    for name, told in store.events(list("abcd")).items():
        assert [event.item for event in told] == [part for n in range(25) for part in (f"{name}{n}", "x")]
        assert told == [event for event in found if event.user == name]


def test_two_that_make_the_same_shard_and_two_that_cut_in_other_numbers_get_in_one_anothers_way(store, store_url):
    other = open_store(store_url)
    with store.alone(0, 2):
        with other.alone(1, 2):
            pass
        for shard, shards in ((0, 2), (0, 1), (2, 3)):
            with pytest.raises(InputError, match="another process is thinking ahead"), other.alone(shard, shards):
                pass
    with other.alone(0, 1):
        pass
    other.close()


def test_one_that_was_killed_is_soon_out_of_the_way(store, store_url):
    code = (
        "import sys, time; from recbole_think.serving.store import open_store\n"
        f"with open_store({store_url!r}).alone(0, 1): print('in', flush=True); time.sleep(60)"
    )
    worker = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert worker.stdout.readline() == "in\n"
    worker.kill(), worker.wait()
    begun = time.monotonic()
    with store.alone(0, 1):
        assert time.monotonic() - begun < 8


def test_a_file_of_something_else_is_refused(tmp_path):
    path = tmp_path / "other.sqlite3"
    with sqlite3.connect(path) as other:
        other.execute("create table theirs (x)")
    with pytest.raises(InputError, match="SQLite file of something else"):
        open_store(str(path))
    assert not list(tmp_path.glob("other.sqlite3-*")), "and left as it is"
    with sqlite3.connect(path) as other:
        assert other.execute("pragma journal_mode").fetchone() == ("delete",)
    (tmp_path / "text").write_text("not a data base, but long enough to have been one" * 9)
    with pytest.raises(InputError, match="cannot be opened"):
        open_store(str(tmp_path / "text"))


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("mysql://x", "sqlite:///<file> or redis"),
        ("redis://127.0.0.1:1", "is the server there"),
        ("sqlite:///", "name a file"),
        ("redis://user:secret@127.0.0.1:1/x", "127.0.0.1"),
        ("redis://127.0.0.1:1/0?password=secret", "127.0.0.1"),
        ("redis://127.0.0.1:1/0?nothing=1", "nothing"),
        ("reddis://user:secret@127.0.0.1", "reddis"),
    ],
)
def test_an_address_that_leads_nowhere_is_refused(url, said):
    with pytest.raises(InputError, match=said) as refused:
        open_store(url)
    assert "secret" not in str(refused.value)


def test_a_redis_that_would_forget_is_refused(tmp_path):
    server = RedisServer(tmp_path, append_only=False)
    try:
        with pytest.raises(InputError, match="no append-only file"):
            open_store(server.url)
    finally:
        server.stop()


def test_a_redis_that_drops_what_it_likes_is_refused(redis_server):
    import redis

    client = redis.Redis.from_url(redis_server.url)
    client.config_set("maxmemory-policy", "allkeys-lru")
    try:
        with pytest.raises(InputError, match="noeviction"):
            open_store(redis_server.url)
    finally:
        client.config_set("maxmemory-policy", "noeviction")


def test_a_lease_that_a_clock_put_back_has_left_in_the_future_holds_nobody_up(redis_server):
    import redis

    client = redis.Redis.from_url(redis_server.url)
    client.flushdb()
    client.hset("recbole_think:locks", "1-0", f"dead {int(time.time() * 1000) + 3_600_000}")
    store = open_store(redis_server.url)
    with store.alone(0, 1):
        pass
    store.close()


def test_many_threads_leave_no_more_connections_than_worked_at_once(tmp_path):
    store = open_store(str(tmp_path / "s"))
    for _ in range(60):
        thread = threading.Thread(target=store.append, args=("u", ["a"]))
        thread.start(), thread.join()
    assert store._free.qsize() == 1
    store.close()


def test_several_that_make_the_same_store_at_once_all_may(tmp_path):
    code = "import sys; from recbole_think.serving.store import open_store; open_store(sys.argv[1]).append('u', ['a'])"
    for number in range(3):
        words = [sys.executable, "-c", code, str(tmp_path / f"s{number}")]
        jobs = [subprocess.Popen(words) for _ in range(4)]
        assert [job.wait() for job in jobs] == [0] * 4


def test_a_neighbours_lock_is_its_own(tmp_path):
    store, neighbour = open_store(str(tmp_path / "s")), open_store(str(tmp_path / "s.test-b"))
    with neighbour.alone(0, 1), store.alone(0, 2):
        pass
    store.close(), neighbour.close()


def test_a_redis_that_was_killed_has_everything_when_it_is_back(tmp_path):
    server = RedisServer(tmp_path)
    try:
        store = open_store(server.url)
        version = made(store)
        store.append("u", ["a", "b"])
        server.kill()
        with pytest.raises(StoreError, match="redis://"):
            store.events(["u"])
        server.start()
        assert items(store, ["u"]) == {"u": ["a", "b"]} and store.get(["u"]) == {"u": "t"}
        assert store.current().number == version.number and store.append("u", ["c"]) == 3
        store.close()
    finally:
        server.stop()
