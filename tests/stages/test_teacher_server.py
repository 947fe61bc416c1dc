"""A teacher with real weights behind a real server: the packaged SmolLM2 and ``transformers serve``."""

import os
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import pytest

from recbole_think.corpus.items import ItemText
from recbole_think.folder import cache_dir
from recbole_think.itemic.backbone import smollm2_folder
from recbole_think.prompts.filters import REASONS, Filter
from recbole_think.prompts.rationale import Case
from recbole_think.stages.activation_options import TeacherOptions
from recbole_think.stages.answers import Answers
from recbole_think.stages.sources import Teacher
from recbole_think.stages.teaching import Asker
from tests.small import distinct_codes, taught

TITLES = {
    "Alien (1979)": "Horror Sci-Fi", "The Thing (1982)": "Horror Sci-Fi", "Aliens (1986)": "Action Sci-Fi",
    "Toy Story (1995)": "Animation Comedy", "Babe (1995)": "Children Comedy", "Antz (1998)": "Animation Children",
}  # fmt: skip
ITEMS = [ItemText(title, {"genre": genre}) for title, genre in TITLES.items()]
CASES = [Case((1, 2), 3, (1, 2)), Case((4, 1, 5), 6, (4, 5)), Case((6,), 4, (6,))]
UP = 180  # seconds a server may take to load its model


@contextmanager
def serving(folder: Path, log: Path):
    """Serve a model folder for a while; gives the address. A server is pinned to one model, named as the folder is."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        str(Path(sys.executable).parent / "transformers"), "serve", str(folder), "--host=127.0.0.1", f"--port={port}",
        "--device=cpu", "--dtype=float32",
    ]  # fmt: skip
    env = {**os.environ, "HF_HUB_OFFLINE": "1"}
    with log.open("w") as out, subprocess.Popen(command, env=env, stdout=out, stderr=subprocess.STDOUT) as process:
        try:
            wait_for(f"http://127.0.0.1:{port}/health", process, log)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()


def wait_for(address: str, process: subprocess.Popen, log: Path) -> None:
    """Come back when the server answers: it loads the model before it listens."""
    ask = urllib.request.build_opener(urllib.request.ProxyHandler({})).open
    end = time.monotonic() + UP
    while time.monotonic() < end:
        assert process.poll() is None, f"the server ended: {log.read_text()}"
        try:
            ask(address, timeout=5).close()
            return
        except OSError:
            time.sleep(0.2)
    raise TimeoutError(f"no server after {UP} s: {log.read_text()}")


@pytest.mark.slow
def test_a_real_model_behind_a_real_server_explains_and_is_not_asked_twice(tmp_path, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    folder = smollm2_folder(cache_dir(None))
    _, vocabulary = taught(distinct_codes(len(ITEMS), (4, 4)), (4, 4))
    answers = Answers(tmp_path / "answers.sqlite", "films")
    with serving(folder, tmp_path / "server.log") as url:
        options = TeacherOptions(url=url, model=str(folder), max_tokens=24, timeout_s=120.0, retries=1, workers=2)
        teacher = Teacher(Asker(options, show_progress=False), ITEMS, answers)
        given = teacher.explain(CASES)
        costs = teacher.costs()
    log = (tmp_path / "server.log").read_text()
    for pieces, case in zip(given, CASES, strict=True):
        assert pieces and any(isinstance(piece, str) and piece.strip() for piece in pieces), log
        assert Filter(ITEMS, vocabulary).reason(pieces, case) in (None, *REASONS)
    assert (costs["asked"], costs["failed"]) == (3, 0)
    assert 3 <= costs["answer_tokens"] <= 3 * 24
    assert costs["prompt_tokens"] > 3 * 50, "with the instructions"
    assert log.count("POST /v1/chat/completions") == 3

    again = Teacher(Asker(options, show_progress=False), ITEMS, Answers(answers.path, "films"))
    assert again.explain(CASES) == given, "though the server is gone"
    assert again.costs() == {}
