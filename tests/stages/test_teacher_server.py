import os
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import pytest

from recbole_think.itemic.backbone import load_backbone
from recbole_think.itemic.options import BackboneOptions
from recbole_think.prompts.rationale import spoken
from recbole_think.stages.answers import Answers
from recbole_think.stages.options import TeacherOptions
from recbole_think.stages.sources import Teacher
from recbole_think.stages.teaching import Asker
from tests.stages.test_teaching import CASES, ITEMS

UP_WITHIN_S = 120


@contextmanager
def served(folder: Path):
    """transformers' own OpenAI-compatible server on a free port of this machine; yields its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [str(Path(sys.executable).parent / "transformers"), "serve", "--host", "127.0.0.1", "--port", str(port),
               "--device", "cpu"]  # fmt: skip
    with (folder / "server.log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, "HF_HUB_OFFLINE": "1"})
    try:
        begin = time.monotonic()
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2).read()
                break
            except OSError:
                assert process.poll() is None, (folder / "server.log").read_text()
                assert time.monotonic() - begin < UP_WITHIN_S, "the server never came up"
                time.sleep(0.5)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.terminate()
        process.wait(timeout=30)


@pytest.mark.slow
def test_a_real_server_with_real_weights_explains(tmp_path):
    from recbole_think.folder import cache_dir

    model, tokenizer = load_backbone(BackboneOptions("smollm2-135m", layers=0), cache_dir(None), [], 0)
    folder = tmp_path / "smollm2"
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    with served(tmp_path) as url:
        options = TeacherOptions(url=url, model=str(folder), max_tokens=24, workers=2, timeout_s=120.0, temperature=0.7)
        asking = Teacher(Asker(options, show_progress=False), ITEMS, Answers(tmp_path / "answers.sqlite", "toy"))
        found = asking.explain(CASES[:3])
    assert all(found), "a language model has something to say"
    assert all(
        any(character.isalpha() for character in spoken(pieces, [*ITEMS])) for pieces in found if 0 not in pieces
    )
    counts = asking.costs()
    assert counts["asked"] == 3 and counts["failed"] == 0
    assert counts["prompt_tokens"] > 3 * 30 and 3 <= counts["answer_tokens"] <= 3 * 24
    again = Teacher(Asker(options, show_progress=False), ITEMS, Answers(tmp_path / "answers.sqlite", "toy"))
    assert again.explain(CASES[:3]) == found, "the server is gone, the answers are kept"
