from pathlib import Path

import pytest

from recbole_think import run
from recbole_think.serving.ahead import AheadOptions
from recbole_think.serving.run import ServedRun
from recbole_think.serving.store import open_store
from recbole_think.serving.think_ahead import think_ahead
from tests.redis_server import RedisServer
from tests.toy import settings


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory):
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    yield server
    server.stop()


@pytest.fixture(params=["sqlite", "redis"])
def store_url(request, tmp_path):
    """Address of an empty store of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'store.sqlite3'}"
    import redis

    server = request.getfixturevalue("redis_server")
    redis.Redis.from_url(server.url).flushdb()
    return server.url


@pytest.fixture(scope="session")
def thinking_run(toy_path, tmp_path_factory) -> Path:
    """Folder of a finished run that answers directly and after thinking."""
    folder = tmp_path_factory.mktemp("thinking") / "run"
    stages = ["recommendation", "activation"]
    run("OneRecThink", "toy", config_dict=settings("OneRecThink", toy_path, folder, stages=stages, mask_history=True))
    return folder


@pytest.fixture(scope="session")
def served(thinking_run) -> ServedRun:
    """That run, with all that the data set holds."""
    return ServedRun(thinking_run, "all")


@pytest.fixture
def store(tmp_path):
    """An empty store."""
    found = open_store(str(tmp_path / "store.sqlite3"))
    yield found
    found.close()


@pytest.fixture
def thought(served, store):
    """A store with one prefix of every thought about everybody."""
    think_ahead(served, store, AheadOptions(thoughts=2, prefixes=2), show_progress=False)
    return store
