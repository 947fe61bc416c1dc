"""The server as a client sees it: a real one, on loopback."""

import socket
import threading
import time

import pytest

from recbole_think.serving.app import Server, ServerOptions
from recbole_think.serving.batching import ClosedError
from recbole_think.serving.direct import DirectModel
from recbole_think.serving.online import OnlineOptions, Recommender, Visitor
from recbole_think.serving.store import StoreError, open_store
from tests.serving.running import running
from tests.toy import walks


@pytest.fixture
def made(served, thought):
    return Recommender(served, thought, OnlineOptions())


@pytest.fixture
def client(made):
    with running(Server(made).app) as found:
        yield found


def test_a_list_is_what_the_recommender_answers(served, thought, client):
    answer = client.post("/recommend", {"user": "u1", "events": ["p9", "zz"], "k": 4})
    [wanted] = Recommender(served, thought).answer([Visitor("u1", ("p9", "zz"), 4)])
    body = answer.json()
    assert answer.status_code == 200 and [item["item"] for item in body["items"]] == [i.item for i in wanted.items]
    assert [item["rank"] for item in body["items"]] == [1, 2, 3, 4]
    assert body["source"] == wanted.source and body["rationales"] == wanted.rationales
    assert body["unknown"] == 1 and body["events"] == len(walks()["u1"]) + 1 and body["model"] == 0
    assert {item["title"] for item in body["items"]} == {i.title for i in wanted.items}


def test_what_was_told_is_in_the_next_list_and_in_the_store(served, thought, client):
    told = client.post("/events", {"user": "u1", "events": ["p3", "zz", "p9"]}).json()
    assert told["kept"] == 2 and told["unknown"] == 1 and told["number"] == 2
    assert [event.item for event in thought.events(["u1"])["u1"]] == ["p3", "p9"]
    assert client.post("/recommend", {"user": "u1"}).json()["events"] == len(walks()["u1"]) + 2
    assert client.post("/events", {"user": "u1", "events": ["zz"]}).json()["kept"] == 0


def test_a_thought_is_shown_with_what_it_leads_to(served, client):
    body = client.get("/explain", params={"user": "u1", "item": "p3"}).json()
    assert body["events"] == len(walks()["u1"]) and body["new_events"] == 0 and len(body["thoughts"]) == 2
    code = served.catalogue.codes.table[served.catalogue.number["p3"] - 1, 0]
    for one in body["thoughts"]:
        leads = f"<a_{code}>" in one["prefixes"]
        assert (one["leads_to_item"] is not None) == leads
        assert not leads or one["leads_to_item"] == one["scores"][one["prefixes"].index(f"<a_{code}>")]
    client.post("/events", {"user": "u1", "events": ["p3"]})
    assert client.get("/explain", params={"user": "u1"}).json()["new_events"] == 1
    assert client.get("/explain", params={"user": "stranger"}).status_code == 404
    assert client.get("/explain", params={"user": "u1", "item": "zz"}).status_code == 404


@pytest.mark.parametrize(
    "body",
    [
        {"user": "u1", "k": 0},
        {"user": "u1", "k": 1001},
        {"user": "u1", "k": "5"},
        {"user": 5},
        {"user": ""},
        {"user": "a\nb"},
        {"user": "\ud800"},
        {"user": "u" * 257},
        {"user": "u1", "events": "p3"},
        {"user": "u1", "events": [None]},
        {"user": "u1", "events": ["p3"] * 201},
        {"user": "u1", "more": 1},
        {"user": "u1", "uuuuuuuuuuuu": 1},
        [],
        "u1",
    ],
)
def test_a_request_of_another_shape_is_refused_in_words_that_repeat_nothing_of_it(client, body):
    answer = client.post("/recommend", body)
    assert answer.status_code == 422 and answer.json()["error"] and len(answer.content) < 2000
    assert "uuuuuuuu" not in answer.text


def test_more_items_than_an_answer_has_beams_are_refused(client, made):
    answer = client.post("/recommend", {"user": "u1", "k": made.longest + 1})
    assert answer.status_code == 422 and str(made.longest) in answer.json()["error"]
    assert client.post("/recommend", {"user": "u1", "k": made.longest, "mask_history": False}).status_code == 200


def test_a_body_that_is_no_json_and_one_that_is_too_large_are_refused(served, thought):
    with running(Server(Recommender(served, thought), ServerOptions(most_kib=4)).app) as client:
        assert client.session.post(client.url + "/recommend", data=b"{", timeout=9).status_code == 422
        deep = b"[" * 3000
        assert client.session.post(client.url + "/recommend", data=deep, timeout=9).status_code in (400, 422)
        large = b'{"user": "' + b"u" * 5000 + b'"}'
        answer = client.session.post(client.url + "/recommend", data=large, timeout=9)
        assert answer.status_code == 413 and answer.json()["request_id"]
        pieces = client.session.post(client.url + "/recommend", data=iter([b"x" * 3000] * 5), timeout=9)
        assert pieces.status_code == 413
        assert client.post("/recommend", {"user": "u1"}).status_code == 200


def test_a_key_is_asked_for_where_there_is_one(served, thought):
    with running(Server(Recommender(served, thought), ServerOptions(key="secret")).app) as client:
        for headers in ({}, {"X-API-Key": "other"}, {"X-API-Key": ""}, {"X-API-Key": "s\u00e9cret"}):
            encoded = {name: value.encode("latin-1") for name, value in headers.items()}
            answers = [
                client.post("/recommend", {}, headers=encoded),
                client.get("/explain?user=u1", headers=encoded),
                client.post("/events", {"user": "u1", "events": ["p3"]}, headers=encoded),
            ]
            for answer in answers:
                assert answer.status_code == 401 and "X-API-Key" in answer.json()["error"]
        assert client.post("/recommend", {}, headers={"X-API-Key": "secret"}).status_code == 200
        assert client.get("/health").status_code == client.get("/metrics").status_code == 200
        assert thought.events(["u1"]) == {"u1": []}


def test_every_answer_has_the_id_of_its_request(client):
    given = client.post("/recommend", {}, headers={"X-Request-ID": "mine-1"})
    assert given.headers["X-Request-ID"] == given.json()["request_id"] == "mine-1"
    for odd in ("a b", "x" * 65, '"><script>'):
        answer = client.post("/recommend", {"k": 0}, headers={"X-Request-ID": odd})
        assert answer.headers["X-Request-ID"] == answer.json()["request_id"] != odd
    nowhere = client.get("/nowhere")
    assert nowhere.json() == {"request_id": nowhere.headers["X-Request-ID"], "error": "Not Found"}


def test_more_requests_than_may_wait_are_told_so_at_once_and_the_rest_is_answered(served, thought, monkeypatch):
    made = Recommender(served, thought)
    gate, begun, answer = threading.Event(), threading.Event(), made.answer

    def slow(asked):
        begun.set()
        gate.wait(20)
        return answer(asked)

    monkeypatch.setattr(made, "answer", slow)
    with running(Server(made, ServerOptions(together=2, waiting=3, timeout_s=30)).app) as client:
        found = []

        def ask():
            found.append(client.session.post(client.url + "/recommend", json={"user": "u1"}, timeout=60))

        threads = [threading.Thread(target=ask)]
        threads[0].start()
        assert begun.wait(20)
        threads += [threading.Thread(target=ask) for _ in range(3)]
        [thread.start() for thread in threads[1:]]
        while client.get("/health").json()["waiting"] < 3:
            time.sleep(0.01)
        begun_at = time.monotonic()
        refused = client.post("/recommend", {"user": "u1"})
        assert refused.status_code == 429 and refused.headers["Retry-After"] == "1"
        assert time.monotonic() - begun_at < 5
        gate.set()
        [thread.join() for thread in threads]
        assert [one.status_code for one in found] == [200] * 4
        assert client.post("/recommend", {"user": "u1"}).status_code == 200


def test_a_list_that_cannot_be_made_in_time_is_not_made(served, thought, monkeypatch):
    made = Recommender(served, thought)
    answer, asked_for = made.answer, []

    def slow(asked):
        asked_for.append(len(asked))
        time.sleep(0.4)
        return answer(asked)

    monkeypatch.setattr(made, "answer", slow)
    with running(Server(made, ServerOptions(together=1, timeout_s=0.2)).app) as client:
        threads = [threading.Thread(target=client.post, args=("/recommend", {"user": "u1"}))]
        threads[0].start()
        while not asked_for:
            time.sleep(0.01)
        late = client.post("/recommend", {"user": "u2"})
        threads[0].join()
        assert late.status_code == 504 and late.headers["Retry-After"] == "1" and asked_for == [1]


def test_who_waits_for_a_slow_store_is_told_so_and_health_is_there_all_the_same(served, thought, monkeypatch):
    def slow(*_):
        time.sleep(1.5)
        return 7

    monkeypatch.setattr(thought, "append", slow)
    with running(Server(Recommender(served, thought), ServerOptions(timeout_s=0.5, waiting=4)).app) as client:
        found = []
        body = {"user": "u1", "events": ["p3"]}
        threads = [threading.Thread(target=lambda: found.append(client.post("/events", body))) for _ in range(12)]
        [thread.start() for thread in threads]
        begun = time.monotonic()
        assert client.get("/health").status_code == 200 and time.monotonic() - begun < 1.4
        [thread.join() for thread in threads]
        statuses = [answer.status_code for answer in found]
        assert set(statuses) == {504, 429} and statuses.count(504) >= 4
        assert all("may have been kept" in answer.json()["error"] for answer in found if answer.status_code == 504)
        assert client.post("/recommend", {"user": "u1"}).status_code in (200, 504)


def test_a_body_that_never_comes_is_not_waited_for(served, thought):
    with running(Server(Recommender(served, thought), ServerOptions(timeout_s=0.3)).app) as client:
        host, port = client.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=10) as line:
            line.sendall(b"POST /recommend HTTP/1.1\r\nHost: x\r\nContent-Length: 50\r\n\r\n{")
            assert line.recv(64).startswith(b"HTTP/1.1 408")


def test_a_failure_of_the_server_ends_in_words_too(served, thought, monkeypatch):
    made = Recommender(served, thought)

    def broken(asked):
        raise ZeroDivisionError("secret of the house")

    monkeypatch.setattr(made, "answer", broken)
    with running(Server(made).app) as client:
        answer = client.post("/recommend", {"user": "u1"})
        assert answer.status_code == 500 and answer.headers["X-Request-ID"] == answer.json()["request_id"]
        assert "secret" not in answer.text


def test_who_asks_at_the_same_moment_is_answered_by_one_search(served, thought, monkeypatch):
    made, searches, gate, begun = Recommender(served, thought), [], threading.Event(), threading.Event()
    answer, together = made.answer, DirectModel._together

    def held(asked):
        begun.set()
        gate.wait(20)
        return answer(asked)

    def counted(self, questions, *more):
        searches.append(len(questions))
        return together(self, questions, *more)

    monkeypatch.setattr(made, "answer", held)
    monkeypatch.setattr(DirectModel, "_together", counted)
    with running(Server(made).app) as client:
        bodies = [{"user": f"u{number}", "k": 1} for number in range(6)]
        threads = [threading.Thread(target=client.post, args=("/recommend", body)) for body in bodies]
        threads[0].start()
        assert begun.wait(20)
        [thread.start() for thread in threads[1:]]
        until = time.monotonic() + 20
        while client.get("/health").json()["waiting"] < 5 and time.monotonic() < until:
            time.sleep(0.01)
        gate.set()
        [thread.join() for thread in threads]
    assert searches == [1, 5], "who came first, and everybody who came meanwhile"


def test_a_store_that_does_not_answer_keeps_nothing_and_says_so(served, thought, client, monkeypatch):
    def gone(*_):
        raise StoreError("gone")

    for name in ("append", "events", "get", "current"):
        monkeypatch.setattr(thought, name, gone)
    assert client.post("/events", {"user": "u1", "events": ["p3"]}).status_code == 503
    assert client.get("/explain?user=u1").status_code == 503
    assert client.get("/health").json()["status"] == "degraded"
    answer = client.post("/recommend", {"user": "u1"})
    assert answer.status_code == 200 and answer.json()["source"] == "direct"


def test_health_and_numbers_say_what_happened(served, client):
    client.post("/recommend", {"user": "u1", "k": 2}), client.post("/recommend", {"user": "u1", "k": 2})
    client.post("/events", {"user": "u1", "events": ["p3", "zz"]}), client.get("/no/such/path")
    health = client.get("/health").json()
    assert health["status"] == "ok" and health["items"] == len(served.catalogue.names) and health["thoughts"] == 1
    text = client.get("/metrics").text
    for line in (
        'recbole_think_requests_total{path="/recommend",status="200"} 2.0',
        'recbole_think_requests_total{path="other",status="404"} 1.0',
        'recbole_think_answers_total{source="ahead"} 2.0',
        "recbole_think_events_total 1.0",
        "recbole_think_unknown_items_total 1.0",
        "recbole_think_prompt_cache_hits 1.0",
        "recbole_think_prompt_cache_users 1.0",
        "recbole_think_batch_size_count 2.0",
        "recbole_think_model_version 0.0",
    ):
        assert line in text.splitlines(), line


def test_the_paths_are_documented(client):
    described = client.get("/openapi.json").json()
    assert set(described["paths"]) == {"/recommend", "/events", "/explain", "/health", "/metrics"}
    assert client.get("/docs").status_code == 200


def test_what_is_opened_is_closed_when_the_server_stops(served, tmp_path):
    store = open_store(str(tmp_path / "other"))
    server = Server(Recommender(served, store))
    with running(server.app) as client:
        client.post("/events", {"user": "u1", "events": ["p3"]})
    with pytest.raises(ClosedError):
        server.batcher.ask(Visitor("u1"), 1.0)
    again = open_store(str(tmp_path / "other"))
    assert [event.item for event in again.events(["u1"])["u1"]] == ["p3"]
    again.close()
