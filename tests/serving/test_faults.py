"""Kill -9 at random moments: of the server, of the offline job, of Redis. Nothing that was acknowledged is lost."""

import random
import subprocess
import sys
import threading
import time

import pytest
import requests

from recbole_think.serving.ahead import Ahead
from recbole_think.serving.store import MOST_EVENTS, StoreError, open_store
from tests.redis_server import RedisServer
from tests.serving.commands import Command
from tests.toy import walks

ROUNDS = 20
READY_S = 10  # besides loading the model


@pytest.fixture(params=["sqlite", "redis"])
def kept(request, tmp_path):
    """Address of a store, and the Redis server behind it, if there is one."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'store.sqlite3'}", None
        return
    server = RedisServer(tmp_path)
    yield server.url, server
    server.stop()


class Writer:
    """Tells a server what users did, without end, and remembers what it acknowledged."""

    def __init__(self):
        self.acknowledged, self.refused, self.wrong, self.over = [], 0, [], False
        self.server, self.thread = None, threading.Thread(target=self._run)

    def _run(self):
        number = 0
        while not self.over:
            number += 1
            user, item = f"w{number % 7}", f"p{number % 24}"
            try:
                answer = self.server.client.post("/events", {"user": user, "events": [item]})
                if answer.status_code == 200:
                    self.acknowledged.append((answer.json()["number"], user, item))
                elif answer.status_code != 503:
                    self.wrong.append(answer.status_code)
                answer = self.server.client.post("/recommend", {"user": user, "k": 3})
                if answer.status_code not in (200, 503):
                    self.wrong.append(answer.status_code)
            except requests.RequestException:
                self.refused += 1
                time.sleep(0.05)


def thinking(run, url):
    words = [sys.executable, "-m", "recbole_think.serving.think_ahead", "--run", str(run), "--store", url]
    return subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def ready(server) -> float:
    """Seconds until the server answers with its store."""
    begun = time.monotonic()
    while time.monotonic() - begun < 60:
        try:
            if server.client.get("/health").json()["status"] == "ok":
                break
        except requests.RequestException:
            pass
        time.sleep(0.02)
    return time.monotonic() - begun


@pytest.mark.slow
def test_nothing_acknowledged_is_lost_and_nobody_is_half_written(thinking_run, kept, tmp_path):
    url, redis = kept
    dice = random.Random(20)
    server = Command("--run", str(thinking_run), "--port", "0", "--store", url, log=tmp_path / "log")
    writer = Writer()
    writer.server = server
    writer.thread.start()
    job = thinking(thinking_run, url)
    try:
        for number in range(ROUNDS):
            time.sleep(dice.uniform(0.2, 4))
            victim = ("server", "job", "redis")[number % 3] if redis else ("server", "job")[number % 2]
            if victim == "server":
                server.kill()
                server.start()
            elif victim == "redis":
                redis.kill()
                redis.start()
            else:
                job.kill(), job.wait()
            assert ready(server) < READY_S, victim
            if job.poll() is not None:
                job = thinking(thinking_run, url)
        writer.over = True
        writer.thread.join()
        job.kill(), job.wait()
        assert thinking(thinking_run, url).wait(300) == 0, "the job goes on to its end"
        store = open_store(url)
        everything = {(event.number, event.user, event.item) for event in store.since(0, 10**6)}
        assert writer.acknowledged and not set(writer.acknowledged) - everything
        assert writer.wrong == []
        for user, events in store.events([f"w{number}" for number in range(7)]).items():
            told = [item for _, name, item in sorted(everything) if name == user]
            assert [event.item for event in events] == told[-MOST_EVENTS:]
        texts = store.get([*walks(), *(f"w{number}" for number in range(7))])
        assert len(texts) == len(walks()) + 7
        for text in texts.values():
            ahead = Ahead.of(text)
            assert len(ahead.rationales) == 5 and all(one.prefixes for one in ahead.rationales)
        store.close()
    finally:
        writer.over = True
        server.process.kill(), job.kill()


def test_a_job_whose_store_goes_away_ends_with_2_and_a_way_on(thinking_run, tmp_path, capsys, monkeypatch):
    from recbole_think.serving import think_ahead as command
    from recbole_think.serving.store.sqlite import SqliteStore

    def gone(*_):
        raise StoreError("gone")

    monkeypatch.setattr(SqliteStore, "put", gone)
    assert command.main(["--run", str(thinking_run), "--store", str(tmp_path / "s")]) == 2
    assert "the same command goes on where it was" in capsys.readouterr().err
