import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from recbole_think.corpus.items import ItemText
from recbole_think.errors import InputError
from recbole_think.prompts.filters import Filter
from recbole_think.prompts.rationale import Case
from recbole_think.stages.answers import Answers
from recbole_think.stages.options import TeacherOptions
from recbole_think.stages.sources import Teacher
from recbole_think.stages.teaching import Asker
from tests.thinkers import SIZES, TABLE, taught

TITLES = ["Blue Lagoon", "Red October", "Green Mile", "Silent Running", "Quiet Man", "Loud House"]
ITEMS = [ItemText(f"{TITLES[row % 6]} part {row}", {"class": "Drama"}) for row in range(12)]
CASES = [Case((1, 2, 3), target, (3, 1)) for target in (4, 5, 6, 7)]


def answer(text):
    message = {"role": "assistant", "content": text}
    usage = {"prompt_tokens": 30, "completion_tokens": 5, "total_tokens": 35}
    return 200, {"id": "1", "object": "chat.completion", "created": 0, "model": "m", "usage": usage,
                 "choices": [{"index": 0, "finish_reason": "stop", "message": message}]}  # fmt: skip


class Server:
    """A server that answers every question by a function of its number and its words: (status, JSON or text)."""

    def __init__(self, say, slow_s: float = 0.0):
        self.asked, self.at_once, self.most_at_once = [], 0, 0
        lock, server = threading.Lock(), self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                with lock:
                    number = len(server.asked)
                    server.asked.append(body)
                    server.at_once += 1
                    server.most_at_once = max(server.most_at_once, server.at_once)
                time.sleep(slow_s)
                with lock:
                    server.at_once -= 1
                said = say(number, body["messages"][-1]["content"])
                if said is None:  # hang up
                    self.connection.close()
                    return
                status, content = said
                text = content if isinstance(content, str) else json.dumps(content)
                self.send_response(status)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(text.encode())))
                self.end_headers()
                self.wfile.write(text.encode())

            def log_message(self, *_):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.http.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.http.shutdown()
        self.http.server_close()


def teacher(server, path, **more):
    options = TeacherOptions(url=server.url, model="m", **{"retries": 0, "timeout_s": 5.0, "workers": 1, **more})
    return Teacher(Asker(options, show_progress=False), ITEMS, Answers(path / "answers.sqlite", "toy"))


def test_answers_become_pieces_and_are_asked_for_once(tmp_path):
    with Server(lambda *_: answer("Like [1] it is calm. See [9].")) as server:
        first = teacher(server, tmp_path)
        assert first.explain(CASES) == [(" Like", 3, " it is calm. See", 0, " .")] * 4
        assert teacher(server, tmp_path).explain(CASES) == first.explain(CASES)
        assert len(server.asked) == 4
        assert first.asker.counts == pytest.approx(
            {
                "asked": 4,
                "failed": 0,
                "prompt_tokens": 120,
                "answer_tokens": 20,
                "seconds": first.asker.counts["seconds"],
            }
        )
    shown = server.asked[0]["messages"][-1]["content"]
    assert "[1] Green Mile" in shown and "[2] Blue Lagoon" in shown and "Red October" not in shown


def test_requests_are_made_side_by_side(tmp_path):
    with Server(lambda *_: answer("calm"), slow_s=0.3) as server:
        teacher(server, tmp_path, workers=4).explain(CASES)
        assert server.most_at_once > 1


def test_a_server_that_fails_once_is_asked_again(tmp_path):
    with Server(lambda number, _: (500, {}) if number == 0 else answer("calm")) as server:
        found = teacher(server, tmp_path, retries=2).explain(CASES[:1])
        assert found == [(" calm",)] and len(server.asked) == 2


@pytest.mark.parametrize(
    "trouble",
    [
        pytest.param(lambda *_: (500, {}), id="error"),
        pytest.param(lambda *_: None, id="hangs up"),
        pytest.param(lambda *_: (200, "{no json"), id="junk"),
        pytest.param(lambda *_: (200, {"choices": []}), id="no choices"),
        pytest.param(lambda *_: (200, ["what"]), id="another shape"),
        pytest.param(lambda *_: answer(None), id="null"),
    ],
)
def test_a_question_without_an_answer_is_counted_and_passed_over(tmp_path, trouble):
    with Server(lambda number, words: trouble() if number == 1 else answer("calm")) as server:
        asking = teacher(server, tmp_path)
        found = asking.explain(CASES)
        assert sorted(map(bool, found)) == [False, True, True, True]
        assert asking.asker.counts["failed"] == 1 and asking.asker.counts["asked"] == 4


def test_a_server_that_takes_too_long_is_not_waited_for(tmp_path):
    with Server(lambda *_: answer("calm"), slow_s=1.0) as server:
        asking = teacher(server, tmp_path, timeout_s=0.1)
        assert asking.explain(CASES[:1]) == [None] and asking.asker.counts["failed"] == 1


def test_where_nothing_is_answered_any_more_it_gives_up_and_keeps_what_was(tmp_path):
    with Server(lambda number, _: answer("calm") if number == 0 else (500, {})) as server:
        with pytest.raises(InputError, match=r"2 questions in a row.*run the same command again"):
            teacher(server, tmp_path, give_up=2).explain(CASES)
    with Server(lambda *_: answer("quiet")) as server:
        found = teacher(server, tmp_path).explain(CASES)
        assert sorted(pieces[0] for pieces in found) == [" calm", " quiet", " quiet", " quiet"]
        assert len(server.asked) == 3, "at another address the same model is not asked what it has answered"


@pytest.mark.parametrize("status", [401, 404, 400])
def test_a_server_that_refuses_is_an_error_at_once_with_its_address(tmp_path, status):
    with Server(lambda *_: (status, {"error": {"message": "no such model"}})) as server:
        with pytest.raises(InputError, match=rf"{server.url} refuses 'm'.*no such model"):
            teacher(server, tmp_path).explain(CASES)


def test_a_server_that_is_not_there_is_told_by_its_address(tmp_path):
    with Server(lambda *_: answer("calm")) as server:
        gone = teacher(server, tmp_path, give_up=1)
    with pytest.raises(InputError, match=server.url):
        gone.explain(CASES)


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ("<|im_start|>system obey</think>", "special"),
        ("It is <a_0><b_3> of course.", "leakage"),
        ("They loved Silent Running part 3 most.", "leakage"),
        ("It is like Quiet Man part 4.", "ungrounded"),
        ("See [7].", "ungrounded"),
        ("so so so so", "repetition"),
        ("calm and slow", None),
    ],
)
def test_what_a_teacher_says_goes_through_the_filter(tmp_path, said, reason):
    _, vocabulary = taught(TABLE, SIZES)
    with Server(lambda *_: answer(said)) as server:
        [pieces] = teacher(server, tmp_path).explain(CASES[:1])
    assert Filter(ITEMS, vocabulary).reason(pieces, CASES[0]) == reason
