"""The server's command: what it refuses, how it begins and how it ends."""

import shutil
import socket
import threading
import time

import pytest

from recbole_think import run
from recbole_think.serving.__main__ import main
from recbole_think.serving.store import open_store
from tests.serving.commands import Command
from tests.toy import settings


@pytest.fixture(scope="module")
def other_runs(toy_path, tmp_path_factory):
    """Runs that cannot be served, by what they are."""
    folder, found = tmp_path_factory.mktemp("others"), {}
    for name, model, more in (
        ("scores", "Pop", {}),
        ("thinks alone", "OneRecThink", {"stages": ["activation"], "activation": {
            "direct": False, "rounds": 1, "validations": 1, "checkpoints": 1, "precision": "float32", "longest": 12}}),
    ):  # fmt: skip
        found[name] = folder / name.replace(" ", "_")
        run(model, "toy", config_dict=settings(model, toy_path, found[name], **more))
    return found


@pytest.mark.parametrize(
    ("name", "said"), [("scores", "a run of Pop: serving takes OneRecThink"), ("thinks alone", "has no direct model")]
)
def test_a_run_without_a_direct_model_is_refused(other_runs, capsys, tmp_path, name, said):
    assert main(["--run", str(other_runs[name]), "--port", "0", "--store", str(tmp_path / "s")]) == 2
    assert said in capsys.readouterr().err


def test_a_store_of_another_catalogue_is_refused(thinking_run, tmp_path, capsys):
    store = open_store(str(tmp_path / "s"))
    store.claim({"catalogue": "another", "split": "all"})
    store.close()
    assert main(["--run", str(thinking_run), "--port", "0", "--store", str(tmp_path / "s")]) == 2
    assert "was made with catalogue='another'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--waiting", "0"], "--waiting must be positive"),
        (["--free", "2"], "--free must be a share"),
        (["--key_variable", "NO_SUCH_VARIABLE"], "the environment has no such variable"),
        (["--host", "256.0.0.1"], "--host=256.0.0.1"),
        (["--split", "half"], "--split must be one of"),
    ],
)
def test_what_cannot_be_done_ends_with_2_and_a_sentence(thinking_run, tmp_path, capsys, words, said):
    assert main(["--run", str(thinking_run), "--port", "0", "--store", str(tmp_path / "s"), *words]) == 2
    assert said in capsys.readouterr().err


def test_a_port_that_is_taken_is_refused_before_anything_is_loaded(tmp_path, capsys):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert main(["--run", str(tmp_path / "nowhere"), "--port", str(port)]) == 2
    assert f"--port={port}" in capsys.readouterr().err


def test_it_answers_takes_up_a_version_and_ends_well_with_requests_under_way(thinking_run, tmp_path):
    words = ["--run", str(thinking_run), "--port", "0", "--store", str(tmp_path / "s"),
             "--live", str(tmp_path / "live"), "--reload_s", "0.2", "--free", "0"]  # fmt: skip
    server = Command(*words, log=tmp_path / "log")
    try:
        assert server.client.post("/recommend", {"user": "u1"}).json()["model"] == 0
        from recbole_think.resume import weights_digest
        from recbole_think.serving.live import Live
        from recbole_think.serving.run import ServedRun

        served = ServedRun(thinking_run, "all")
        live = Live(tmp_path / "live", weights_digest(served.model))
        tensors = {name: value.detach() for name, value in served.model.language_model.named_parameters()}
        live.switch(live.add(tensors, {"parent": 0, "accepted": True}))
        until = time.monotonic() + 20
        while server.client.post("/recommend", {"user": "u1"}).json()["model"] != 1 and time.monotonic() < until:
            time.sleep(0.05)
        assert server.client.get("/health").json()["model"] == 1
        codes = []
        # a body that is not all there yet: the request is under way when the server is told to stop
        host, port = server.client.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=30) as line:
            body = b'{"user": "u2"}'
            head = (
                b"POST /recommend HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
            )
            line.sendall(head % len(body) + body[:5])
            time.sleep(0.3)
            stopping = threading.Thread(target=lambda: codes.append(server.stop()))
            stopping.start()
            time.sleep(0.3)
            line.sendall(body[5:])
            assert line.recv(65536).startswith(b"HTTP/1.1 200")
        stopping.join()
        assert codes == [0]
    finally:
        server.process.kill()
    shutil.rmtree(tmp_path / "live")
