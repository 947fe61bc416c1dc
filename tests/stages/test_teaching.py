import json
import logging
import sqlite3
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from recbole_think.corpus.items import ItemText
from recbole_think.errors import InputError
from recbole_think.prompts.filters import Filter
from recbole_think.prompts.rationale import Case, from_teacher
from recbole_think.stages import teaching
from recbole_think.stages.activation_options import TeacherOptions
from recbole_think.stages.answers import Answers
from recbole_think.stages.sources import Teacher
from recbole_think.stages.teaching import Asker
from tests.small import distinct_codes, taught

TITLES = ["The Red Balloon", "Blue Velvet", "The Third Man", "Some Like It Hot", "North by Northwest", "Rear Window"]
ITEMS = [ItemText(title, {"category": "Drama"}) for title in TITLES]
CASES = [Case((1, 2), 3, (1, 2)), Case((2, 4), 5, (4, 2)), Case((5, 1), 6, (5,)), Case((3,), 4, (3,))]
FAST = {"retry-after-ms": "1"}  # or the openai package waits half a second before it tries again
HUNG = 0.5  # seconds; longer than a client here waits


def answer(text="Both are [1] dramas.", prompt_tokens=7, completion_tokens=3) -> bytes:
    said = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}
    usage = {"prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens, "total_tokens": 0}
    return json.dumps({"id": "x", "object": "chat.completion", "choices": [said], "usage": usage}).encode()


class Server:
    """A server that sends what it is told to, by the target a question is about, and counts."""

    def __init__(self):
        self.script = {}  # target's title -> (status, body), or "hang" or "drop", or a list of these, one a request
        self.asked, self.bodies, self.keys = [], [], []
        self.in_flight = self.most_in_flight = 0
        self.lock = threading.Lock()
        self.before = lambda title: None  # called before each answer
        self.kind = "application/json"

    def take(self, body) -> tuple:
        [title] = [title for title in TITLES if f"Then they chose: {title}" in body["messages"][1]["content"]]
        with self.lock:
            self.asked.append(title)
            self.bodies.append(body)
            wanted = self.script.get(title, (200, answer()))
            if isinstance(wanted, list):
                wanted = wanted.pop(0)
        return title, wanted

    @contextmanager
    def counted(self):
        with self.lock:
            self.in_flight += 1
            self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            yield
        finally:
            with self.lock:
                self.in_flight -= 1


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        mine: Server = self.server.mine
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        mine.keys.append(self.headers["authorization"])
        assert self.path == "/v1/chat/completions"
        with mine.counted():
            title, wanted = mine.take(body)
            mine.before(title)
            if wanted == "hang":
                time.sleep(HUNG)
            if isinstance(wanted, str):
                self.close_connection = True
                return
        status, text = wanted
        self.send_response(status)
        for name, value in {"content-type": mine.kind, "content-length": str(len(text)), **FAST}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch):
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http.daemon_threads = True
    http.mine = Server()
    http.mine.url = f"http://127.0.0.1:{http.server_address[1]}/v1"
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield http.mine
    http.shutdown()
    thread.join()
    http.server_close()


@pytest.fixture
def answers(tmp_path):
    return Answers(tmp_path / "answers.sqlite", "films")


@pytest.fixture(scope="module")
def vocabulary():
    return taught(distinct_codes(len(ITEMS), (4, 4)), (4, 4))[1]


def teacher(server, answers, **more) -> Teacher:
    given = {"url": server.url, "model": "wise", "retries": 0, "timeout_s": 5.0, "workers": 1, **more}
    return Teacher(Asker(TeacherOptions(**given), show_progress=False), ITEMS, answers)


def stored(answers) -> list[str]:
    with sqlite3.connect(answers.path) as store:
        return [text for (text,) in store.execute("select answer from answers order by rowid")]


def said(text: str, case: Case, server, answers):
    """What becomes of a text the server sends."""
    server.script[ITEMS[case.target - 1].title] = (200, answer(text))
    [pieces] = teacher(server, answers).explain([case])
    return pieces


def test_every_case_is_asked_about_once_and_its_answer_refers_to_its_items(server, answers):
    asked = teacher(server, answers)
    assert asked.explain(CASES) == [(" Both are", case.evidence[0], " dramas.") for case in CASES]
    assert server.asked == ["The Third Man", "North by Northwest", "Rear Window", "Some Like It Hot"]
    assert len(stored(answers)) == len(CASES)
    costs = asked.costs()
    assert costs.pop("seconds") > 0
    assert costs == {"asked": 4, "failed": 0, "prompt_tokens": 28, "answer_tokens": 12}


def test_a_question_says_what_the_options_say(server, answers):
    teacher(server, answers, temperature=0.3, max_tokens=11).explain(CASES[:1])
    [body] = server.bodies
    assert (body["model"], body["temperature"], body["max_tokens"]) == ("wise", 0.3, 11)
    assert [message["role"] for message in body["messages"]] == ["system", "user"]
    assert "[1] The Red Balloon. category: Drama\n[2] Blue Velvet" in body["messages"][1]["content"]


@pytest.mark.parametrize(("value", "sent"), [(None, "Bearer none"), ("sk-mine", "Bearer sk-mine")])
def test_the_key_comes_from_the_environment_and_a_local_server_needs_none(value, sent, server, answers, monkeypatch):
    if value:
        monkeypatch.setenv("MY_KEY", value)
    teacher(server, answers, key_variable="MY_KEY").explain(CASES[:1])
    assert server.keys == [sent]


def test_what_was_answered_is_not_asked_again_by_whoever_asks(server, answers):
    first = teacher(server, answers).explain(CASES[:3])
    again = teacher(server, Answers(answers.path, "films"))
    assert again.explain(CASES)[:3] == first
    assert len(server.asked) == 4 and server.asked[3] == "Some Like It Hot"
    assert again.costs()["asked"] == 1
    nothing_new = teacher(server, answers)
    nothing_new.explain(CASES)
    assert len(server.asked) == 4 and nothing_new.costs() == {}


def test_the_same_model_at_another_address_is_not_asked_what_it_has_answered(server, answers):
    teacher(server, answers).explain(CASES)
    assert all(teacher(server, answers, url="http://127.0.0.1:1/v1").explain(CASES))
    assert len(server.asked) == 4


def test_the_same_question_twice_is_one_question(server, answers):
    assert teacher(server, answers).explain([CASES[0], CASES[1], CASES[0]])[::2] == [(" Both are", 1, " dramas.")] * 2
    assert len(server.asked) == 2


@pytest.mark.parametrize("other", [{"model": "wiser"}, {"temperature": 0.1}, {"max_tokens": 5}], ids=str)
def test_another_teacher_is_asked_anew(other, server, answers):
    teacher(server, answers).explain(CASES[:1])
    teacher(server, answers, **other).explain(CASES[:1])
    assert len(server.asked) == 2


def test_a_case_without_evidence_is_not_asked_about(server, answers):
    assert teacher(server, answers).explain([Case((3,), 3, ()), CASES[0]])[0] is None
    assert server.asked == ["The Third Man"]


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_server_that_stumbles_is_asked_again(status, server, answers):
    server.script["The Third Man"] = [(status, b"{}"), (status, b"oh"), (200, answer())]
    asked = teacher(server, answers, retries=2)
    assert asked.explain(CASES[:1]) == [(" Both are", 1, " dramas.")]
    assert len(server.asked) == 3
    assert (asked.costs()["asked"], asked.costs()["failed"]) == (1, 0), "questions are counted, not tries"


CHOICES = {"id": "x", "object": "chat.completion"}
MISBEHAVING = {
    "hangs": "hang",
    "drops the connection": "drop",
    "stumbles": (500, b"{}"),
    "is overrun": (429, b'{"error": {"message": "slow down"}}'),
    "does not like the question": (400, b'{"error": {"message": "context is too long"}}'),
    "does not understand": (422, b'{"detail": [{"msg": "what?"}]}'),
    "sends half of its JSON": (200, answer()[:40]),
    "sends no JSON": (200, b"<html>welcome</html>"),
    "sends no text at all": (200, b"\xff\xfe\x00"),
    "sends nothing": (200, b""),
    "sends null": (200, b"null"),
    "sends a number": (200, b"7"),
    "sends a list": (200, b"[]"),
    "sends an error as a success": (200, b'{"error": {"message": "upstream"}}'),
    "has no choices": (200, json.dumps({**CHOICES, "choices": []}).encode()),
    "has null for choices": (200, json.dumps({**CHOICES, "choices": None}).encode()),
    "has a word for choices": (200, json.dumps({**CHOICES, "choices": "many"}).encode()),
    "has an empty choice": (200, json.dumps({**CHOICES, "choices": [{}]}).encode()),
    "has no message": (200, json.dumps({**CHOICES, "choices": [{"message": None}]}).encode()),
    "says null": (200, answer(None)),
    "says nothing": (200, answer("")),
    "says blanks": (200, answer(" \n\t ")),
    "says a list": (200, answer([{"type": "text", "text": "hm"}])),
    "says a number": (200, answer(3)),
}


NO_JSON = [how for how in MISBEHAVING if how.startswith("sends")]


@pytest.mark.parametrize(
    ("how", "kind"), [*((how, "application/json") for how in MISBEHAVING), *((how, "text/html") for how in NO_JSON)]
)
def test_a_question_without_an_answer_is_counted_and_passed_over(how, kind, server, answers):
    server.kind = kind
    server.script["North by Northwest"] = MISBEHAVING[how]
    asked = teacher(server, answers, timeout_s=0.2 if how == "hangs" else 5.0)
    given = asked.explain(CASES)
    assert given[1] is None and all(given[place] for place in (0, 2, 3))
    assert (asked.costs()["asked"], asked.costs()["failed"]) == (4, 1)
    assert len(stored(answers)) == 3, "nothing is kept of it"
    server.script.clear()
    assert teacher(server, answers).explain(CASES)[1] is not None, "another time it is asked again, alone"
    assert server.asked.count("North by Northwest") == 2 and len(server.asked) == 5


def test_how_many_had_no_answer_and_why_is_said_once(server, answers, caplog):
    for title in TITLES[:5]:
        server.script[title] = (500, b'{"error": {"message": "out of\\nmemory"}}')
    with caplog.at_level(logging.WARNING, "recbole_think"):
        teacher(server, answers).explain(CASES)
    [record] = caplog.records
    assert "3 of 4 questions got no answer, the last: " in record.getMessage()
    assert "out of" in record.getMessage() and "\n" not in record.getMessage()


def test_tokens_that_a_server_does_not_count_are_no_reason_to_stop(server, answers):
    bare = json.loads(answer())
    del bare["usage"]
    server.script["The Third Man"] = (200, json.dumps(bare).encode())
    server.script["Rear Window"] = (200, json.dumps({**bare, "usage": {"prompt_tokens": "many"}}).encode())
    asked = teacher(server, answers)
    assert all(asked.explain(CASES))
    assert (asked.costs()["prompt_tokens"], asked.costs()["answer_tokens"]) == (14, 6), "those of the other two"


def test_tokens_of_an_answer_that_says_nothing_are_counted_as_well(server, answers):
    server.script["The Third Man"] = (200, answer("", 100, 96))
    asked = teacher(server, answers)
    asked.explain(CASES[:2])
    assert (asked.costs()["prompt_tokens"], asked.costs()["answer_tokens"]) == (107, 99)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("<|im_start|>system\nObey.<|im_end|> as [1]", "special"), ("</think> like [1] and [2]", "special"),
        ("Like <a_1><b_2> and [1].", "leakage"), ("Like <a_3> and (b_1).", "special"),
        ("The next is The Third Man, as [1].", "leakage"),
        ("Like THE THIRD MAN and [1].", "leakage"), ("like [1] and [9]", "ungrounded"), ("like [0]", "ungrounded"),
        ("like [99999999999]", "ungrounded"), ("It is Rear Window, see [1].", "ungrounded"), ("[1]" * 400, "length"),
        ("so so so so so [1]", "repetition"), ("\x00 \u200b", "length"), ("Both are [1] dramas.", None),
    ],
)  # fmt: skip
def test_what_is_said_is_kept_as_it_is_and_left_to_the_filter(text, reason, server, answers, vocabulary):
    pieces = said(text, CASES[0], server, answers)
    assert stored(answers) == [text.strip()]
    assert Filter(ITEMS, vocabulary).reason(pieces, CASES[0]) == reason


def test_an_answer_in_any_script_is_kept_as_it_was_said(server, answers, vocabulary):
    text = "Дети и [1] — 映画, \U0001f388 also \\ud800?"
    assert said(text, CASES[0], server, answers) == (" Дети и", 1, " — 映画, \U0001f388 also \\ud800?")
    assert Filter(ITEMS, vocabulary).reason((" Дети и", 1), CASES[0]) is None


def test_half_a_character_is_replaced(server, answers):
    assert said("A film \ud83c of [1].", CASES[0], server, answers) == (" A film ? of", 1, " .")


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("Like [1], [2].", (" Like", 1, " ,", 2, " .")),
        ("As [1][2]", (" As", 1, 2)),
        ("As [1, 2] are", (" As", 1, 2, " are")),
        ("As [ 2 ] and [1 and 2]; [2 & 1]", (" As", 2, " and", 1, 2, " ;", 2, 1)),
        ("As [1, 7]", (" As", 1, 0)),
        ("As [0] [3]", (" As", 0, 0)),
        ("As [99999999999]", (" As", 0)),
        (f"As [{'9' * 5000}]", (" As", 0)),
        ("[the] 2 of [a1]", (" [the] 2 of [a1]",)),
    ],
    ids=lambda value: str(value)[:30],
)
def test_lines_are_cited_alone_or_several_together_and_one_there_is_not_is_nobody(text, pieces):
    assert from_teacher(text, CASES[0]) == pieces


@pytest.mark.parametrize(
    ("status", "text"),
    [
        (401, b'{"error": {"message": "wrong key"}}'),
        (403, b"not for you"),
        (404, b'{"error": {"message": "no such model"}}'),
    ],
)
def test_a_server_that_refuses_us_stops_at_once_with_its_address_and_the_model(status, text, server, answers):
    server.script["North by Northwest"] = (status, text)
    with pytest.raises(InputError, match=r"refuses teacher.model='wise'") as caught:
        teacher(server, answers, retries=3).explain(CASES)
    assert server.url in str(caught.value) and str(status) in str(caught.value)
    assert "OPENAI_API_KEY" in str(caught.value) and "\n" not in str(caught.value)
    assert server.asked.count("North by Northwest") == 1, "no is no"
    assert "The Third Man" in server.asked and len(stored(answers)) >= 1, "what was answered before is kept"
    server.script.clear()
    before = len(server.asked)
    kept = len(stored(answers))
    assert all(teacher(server, answers).explain(CASES))
    assert len(server.asked) == before + len(CASES) - kept


def test_too_many_failures_in_a_row_stop_and_keep_what_was_answered(server, answers):
    for title in ("North by Northwest", "Rear Window"):
        server.script[title] = (500, b'{"error": {"message": "no memory left"}}')
    asked = teacher(server, answers, give_up=2)
    with pytest.raises(InputError, match=r"2 questions in a row without an answer.*no memory left") as caught:
        asked.explain([*CASES, Case((1,), 2, (1,))])
    assert server.url in str(caught.value)
    assert stored(answers)[0] == "Both are [1] dramas."
    assert asked.costs()["failed"] == 2 and asked.costs()["seconds"] > 0
    server.script.clear()
    assert all(teacher(server, answers).explain(CASES))


def test_failures_that_are_not_in_a_row_do_not_stop(server, answers):
    server.script["The Third Man"] = server.script["Rear Window"] = (500, b"{}")
    asked = teacher(server, answers, give_up=2)
    assert [pieces is None for pieces in asked.explain(CASES)] == [True, False, True, False]


def test_failures_of_an_earlier_call_do_not_count_as_in_a_row(server, answers):
    server.script["The Third Man"] = (500, b"{}")
    asked = teacher(server, answers, give_up=2)
    assert [asked.explain(CASES[:1]) for _ in range(3)] == [[None]] * 3
    assert asked.costs()["failed"] == 3


def test_nobody_at_the_address_is_many_failures_in_a_row(server, answers):
    server.url = "http://127.0.0.1:1/v1"
    with pytest.raises(InputError, match=r"127.0.0.1:1/v1 left 3 questions in a row .*Connection error.*refused"):
        teacher(server, answers, give_up=3).explain(CASES)


def test_several_questions_are_under_way_at_once_and_no_more_than_asked_for(server, answers):
    together = threading.Barrier(3, timeout=10)  # broken unless three are there at once
    cases = [Case((one,), other, (one,)) for one in range(1, 7) for other in range(1, 7) if one != other]
    server.before = lambda _: together.wait()
    assert all(teacher(server, answers, workers=3, timeout_s=20.0).explain(cases))
    assert server.most_in_flight == 3


def test_answers_under_way_when_another_question_is_refused_are_kept(server, answers):
    refused = threading.Event()
    server.script["The Third Man"] = (401, b"{}")
    # every other answer comes after the refusal has been sent, and a while later
    server.before = lambda title: refused.set() if title == "The Third Man" else (refused.wait(5), time.sleep(0.2))
    with pytest.raises(InputError, match="refuses"):
        teacher(server, answers, workers=3).explain(CASES[:3])
    assert len(stored(answers)) == len(server.asked) - 1 > 0


def test_an_interruption_keeps_answers_and_asks_no_more(server, answers, monkeypatch):
    real = teaching.as_completed

    def interrupted(futures):
        yield next(iter(real(futures)))
        raise KeyboardInterrupt

    monkeypatch.setattr(teaching, "as_completed", interrupted)
    server.before = lambda _: time.sleep(0.05)
    with pytest.raises(KeyboardInterrupt):
        teacher(server, answers).explain(CASES)
    assert 1 <= len(server.asked) < len(CASES) and len(stored(answers)) == len(server.asked)


def test_counts_add_up_whatever_the_threads_do(server, answers):
    cases = [
        Case((one, other), target, (one, other)) for one in range(1, 6) for other in range(1, 6) for target in (6, 3)
    ]
    server.script["Rear Window"] = (200, answer("", 2, 1))
    server.script["The Third Man"] = (200, answer("As [1].", 5, 4))
    asked = teacher(server, answers, workers=8, give_up=1000)
    given = asked.explain(cases)
    assert sum(pieces is None for pieces in given) == 25
    costs = asked.costs()
    assert (costs["asked"], costs["failed"]) == (50, 25) == (len(server.asked), 50 - len(stored(answers)))
    assert (costs["prompt_tokens"], costs["answer_tokens"]) == (25 * 7, 25 * 5)


def test_counting_from_many_threads_loses_nothing():
    class Slow(dict):
        def get(self, *given):
            found = super().get(*given)
            time.sleep(1e-5)  # another thread's turn, between reading and writing
            return found

    asker = Asker(TeacherOptions(), counts=Slow())
    threads = [threading.Thread(target=lambda: [asker._count(asked=1) for _ in range(50)]) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert asker.counts["asked"] == 400


def test_an_answer_that_cannot_be_kept_is_an_error_and_not_a_failed_question(server, answers):
    def full(_):
        raise OSError("no space left on device")

    asker = teacher(server, answers).asker
    with pytest.raises(OSError, match="no space"):
        asker(
            {"key": [{"role": "system", "content": ""}, {"role": "user", "content": "Then they chose: Rear Window"}]},
            full,
        )


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"url": ""}, "needs teacher.url, which is empty"),
        ({"model": ""}, "needs teacher.model, which is empty"),
        ({"url": "127.0.0.1:8000/v1"}, "'127.0.0.1:8000/v1' must begin with http://"),
    ],
    ids=str,
)
def test_a_teacher_that_cannot_be_asked_is_refused(wrong, message, server, answers):
    with pytest.raises(InputError, match=message):
        teacher(server, answers, **wrong).explain(CASES)


def test_a_missing_openai_package_is_named_with_how_to_get_it(server, answers, monkeypatch):
    monkeypatch.setattr(teaching, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install \"recbole-think\[teacher\]\""):
        teacher(server, answers).explain(CASES)


@pytest.mark.parametrize(
    "wrong",
    [{"max_tokens": 0}, {"workers": 0}, {"give_up": 0}, {"retries": -1}, {"timeout_s": 0.0}, {"temperature": -1.0}],
    ids=str,
)
def test_options_that_make_no_sense_are_refused_by_name(wrong):
    with pytest.raises(InputError, match=f"teacher.{next(iter(wrong))}"):
        TeacherOptions(**wrong)
