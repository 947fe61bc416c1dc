"""Fetching, from a server on this machine that cuts off, ignores ranges, or lies."""

import hashlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from recbole_think.corpus.convert import download
from recbole_think.corpus.convert.__main__ import SOURCES, main
from recbole_think.corpus.convert.download import Remote, fetch
from recbole_think.errors import InputError

CONTENT = bytes(range(256)) * 40


class Server(ThreadingHTTPServer):
    """Serves CONTENT at /data.zip and its checksum at /data.zip.md5."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.cut, self.ranges, self.asked = 0, True, []
        self.md5 = hashlib.md5(CONTENT).hexdigest()

    @property
    def remote(self) -> Remote:
        place = f"http://127.0.0.1:{self.server_address[1]}/data.zip"
        return Remote(place, f"{place}.md5")


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_GET(self):
        asked = self.headers.get("Range")
        self.server.asked.append((self.path, asked))
        if self.path == "/data.zip.md5":
            return self.answer(200, f"MD5 (data.zip) = {self.server.md5.upper()}\n".encode())
        if self.path != "/data.zip":
            return self.answer(404, b"")
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and self.server.ranges else 0
        if start >= len(CONTENT):
            return self.answer(416, b"", {"Content-Range": f"bytes */{len(CONTENT)}"})
        rest = CONTENT[start:]
        sent = rest[: self.server.cut] if self.server.cut else rest
        return self.answer(206 if start else 200, sent, length=len(rest))

    def answer(self, code, body, more=None, length=None):
        self.send_response(code)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        for name, value in (more or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(download, "PAUSE_S", 0.01)
    made = Server()
    thread = threading.Thread(target=made.serve_forever, daemon=True)
    thread.start()
    yield made
    made.shutdown()
    made.server_close()


def test_a_file_is_fetched_checked_and_not_fetched_again(server, tmp_path):
    place = fetch(server.remote, tmp_path / "raw", "home", show=False)
    assert place.read_bytes() == CONTENT and [path.name for path in (tmp_path / "raw").iterdir()] == ["data.zip"]
    fetch(server.remote, tmp_path / "raw", "home", show=False)
    assert [path for path, _ in server.asked] == ["/data.zip", "/data.zip.md5"]


def test_what_is_cut_off_goes_on_where_it_was(server, tmp_path):
    server.cut = 3000
    assert fetch(server.remote, tmp_path, "home", show=False).read_bytes() == CONTENT
    assert [asked for path, asked in server.asked if path == "/data.zip"] == [
        None, "bytes=3000-", "bytes=6000-", "bytes=9000-"
    ]  # fmt: skip


def test_a_later_call_goes_on_with_what_an_earlier_one_left(server, tmp_path):
    (tmp_path / "data.zip.part").write_bytes(CONTENT[:5000])
    assert fetch(server.remote, tmp_path, "home", show=False).read_bytes() == CONTENT
    assert server.asked[0] == ("/data.zip", "bytes=5000-")


def test_a_server_without_ranges_is_asked_for_all_of_it(server, tmp_path):
    server.ranges = False
    (tmp_path / "data.zip.part").write_bytes(b"x" * 5000)
    assert fetch(server.remote, tmp_path, "home", show=False).read_bytes() == CONTENT


@pytest.mark.parametrize("more", [b"", b"too long"])
def test_what_had_come_whole_is_kept_and_what_is_too_long_begins_anew(server, tmp_path, more):
    (tmp_path / "data.zip.part").write_bytes(CONTENT + more)
    assert fetch(server.remote, tmp_path, "home", show=False).read_bytes() == CONTENT


def test_a_file_that_is_not_what_its_checksum_says_is_thrown_away(server, tmp_path):
    server.md5 = "0" * 32
    with pytest.raises(InputError, match="is damaged: its checksum is"):
        fetch(server.remote, tmp_path, "home", show=False)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_not_there_is_not_asked_for_twice(server, tmp_path):
    with pytest.raises(InputError, match=r"404.*put other.zip into .* by hand, from https://home"):
        fetch(Remote(server.remote.url.replace("data", "other")), tmp_path, "https://home", show=False)
    assert len(server.asked) == 1


def test_without_a_network_it_says_what_to_do(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(download, "PAUSE_S", 0.0)

    def unreachable(*_, **__):
        raise OSError("no route to host")

    monkeypatch.setattr(download.urllib.request, "urlopen", unreachable)
    assert main(["ml-1m", "--download", f"--raw={tmp_path / 'raw'}", f"--out={tmp_path / 'out'}", "--quiet"]) == 2
    said = capsys.readouterr().err
    assert "no route to host" in said and "put ml-1m.zip into" in said and "grouplens.org/datasets/movielens/1m" in said
    assert not (tmp_path / "out").exists()


def test_a_publisher_who_asks_for_an_agreement_is_named(tmp_path, capsys):
    assert main(["yelp", "--download", f"--raw={tmp_path}", "--quiet"]) == 2
    assert "cannot be fetched by a program; put yelp_academic_dataset_review.json" in capsys.readouterr().err


def test_what_lies_there_unpacked_is_not_fetched(tmp_path, monkeypatch):
    from recbole_think.corpus.convert import __main__ as command

    asked = []
    monkeypatch.setattr(command, "fetch", lambda remote, *_: asked.append(remote.name))
    (tmp_path / "reviews_Beauty.json").write_text("{}")
    for name in ("ratings.dat", "movies.dat", "users.dat"):
        (tmp_path / name).write_text("")
    main(
        ["amazon-2014", "--category=Beauty", "--download", f"--raw={tmp_path}", f"--out={tmp_path / 'out'}", "--quiet"]
    )
    main(["ml-1m", "--download", f"--raw={tmp_path}", f"--out={tmp_path / 'out'}", "--quiet"])
    assert asked == ["meta_Beauty.json.gz"]


@pytest.mark.parametrize(
    ("source", "there"),
    [("ml-1m", ["ratings.dat"]), ("ml-1m", ["ratings.dat", "movies.dat"]), ("ml-20m", ["ratings.csv"])],
)
def test_what_lies_there_unpacked_in_part_is_fetched(tmp_path, monkeypatch, source, there):
    from recbole_think.corpus.convert import __main__ as command

    asked = []
    monkeypatch.setattr(command, "fetch", lambda remote, *_: asked.append(remote.name))
    for name in there:
        (tmp_path / name).write_text("")
    main([source, "--download", f"--raw={tmp_path}", f"--out={tmp_path / 'out'}", "--quiet"])
    assert asked == [f"{source}.zip"]


def test_what_is_fetched_is_what_is_read():
    for source in SOURCES.values():
        if source.remotes:
            names = {remote.name.replace("Beauty", "<category>") for remote in source.remotes("Beauty")}
            assert names <= set(source.files.replace(", or what it holds", "").split(", ")), source.name
