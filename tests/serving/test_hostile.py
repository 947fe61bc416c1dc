"""Whatever is sent: no failure of the server, no item that is none, nobody is answered with another's history."""

import os
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from recbole_think.serving.app import Server, ServerOptions
from recbole_think.serving.online import Recommender
from tests.serving.running import running
from tests.toy import walks

TOKENS = ["<|im_start|>", "<|im_end|>", "<a_1><b_2>", "<think>", "</think>", "<|endoftext|>", "[INST]", "<s>"]
ODD = [
    "\x00", "\x1b[31m", "\u202e", "\ufeff", "\ud800", "\U0001f600", "'; drop table events; --", "${jndi:ldap://x}",
    "../../etc/passwd", "<script>alert(1)</script>", "%00", "\n", "{}", "null", "*", "KEYS[1]", "of:u1", "e\u0301",
]  # fmt: skip


def text(dice: random.Random) -> str:
    """A name as nobody is called, or nearly as somebody is."""
    kind = dice.randrange(9)
    someone = f"u{dice.randrange(45)}"
    if kind == 0:
        return dice.choice(TOKENS)
    if kind == 1:
        return dice.choice(ODD)
    if kind == 2:
        return someone + dice.choice([" ", "\u200b", ":", "\x00", "/", "0", "%20", "\t"])
    if kind == 3:
        return dice.choice([someone.upper(), f" {someone}", f"of:{someone}", f"{someone}:p3"])
    if kind == 4:
        return "".join(chr(dice.randrange(1, 0x2FFF)) for _ in range(dice.randrange(1, 40)))
    if kind == 5 and dice.random() < 0.05:
        return dice.choice("ax\u00e9") * 1_000_000
    if kind == 6:
        return dice.choice(TOKENS) + dice.choice(ODD) + someone
    return someone if kind == 7 else f"p{dice.randrange(30)}"


def requests_of(dice: random.Random, many: int):
    for _ in range(many):
        user = dice.choice([None, text(dice), text(dice), text(dice), 7, ["u1"]])
        events = [text(dice) for _ in range(dice.choice([0, 1, 1, 2, 5, 30]))]
        yield dice.choice(["recommend", "recommend", "recommend", "events", "explain"]), user, events


def told(client, path, user, events):
    if path == "recommend":
        return client.post("/recommend", {"user": user, "events": events, "k": 6})
    if path == "events":
        return client.post("/events", {"user": user, "events": events})
    return client.get("/explain", params={"user": str(user).encode("utf-8", "replace").decode()})


def swarm(client, served, many: int) -> Counter:
    """Ask, and check every answer; how often each status came."""
    known, kept, statuses = walks(), Counter(), Counter()
    for path, user, events in requests_of(random.Random(9), many):
        answer = told(client, path, user, events)
        statuses[answer.status_code] += 1
        assert answer.status_code < 500, (path, user, answer.text[:300])
        if answer.status_code != 200:
            continue
        body, in_catalogue = answer.json(), sum(event in served.catalogue.number for event in events)
        if path == "events":
            assert body["kept"] == in_catalogue and body["unknown"] == len(events) - in_catalogue
            kept[user] += in_catalogue
        elif path == "recommend":
            items = [item["item"] for item in body["items"]]
            assert len(set(items)) == len(items) and all(item in served.catalogue.number for item in items)
            assert body["events"] == len(known.get(user, [])) + kept[user] + in_catalogue, user
            assert not set(items) & set(known.get(user, []))
        else:
            assert body["user"] == user and user in known
    return statuses


@pytest.fixture
def client(served, thought):
    with running(Server(Recommender(served, thought), ServerOptions()).app) as found:
        yield found


def test_hostile_users_and_events_are_refused_or_answered_as_what_they_are(served, client):
    statuses = swarm(client, served, 300)
    assert statuses[200] > 60 and statuses[422] > 20


@pytest.mark.slow
def test_five_thousand_of_them_are(served, client):
    statuses = swarm(client, served, 5000)
    assert statuses[200] > 1000 and statuses[413] > 0
    assert client.get("/health").json()["status"] == "ok"


@pytest.mark.slow
def test_schemathesis_finds_nothing_in_what_the_server_says_of_itself(client):
    tool = str(Path(sys.executable).parent / "schemathesis")
    words = [tool, "run", f"{client.url}/openapi.json", "--max-examples", "200", "--seed", "1"]
    environment = {**os.environ, "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
    done = subprocess.run(words, capture_output=True, text=True, env=environment, timeout=1200)
    assert done.returncode == 0, done.stdout[-5000:]
