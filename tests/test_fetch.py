"""Names RecBole knows: its own code asks, fetches, unpacks and renames; only the network is another."""

import zipfile
from pathlib import Path
from urllib.error import URLError

import pytest

from recbole_think.errors import InputError
from recbole_think.experiment import run
from recbole_think.fetch import addresses
from tests.toy import settings, write_toy

NAME = "ml-10m"


@pytest.fixture
def given(tmp_path):
    return settings("Pop", tmp_path / "data", tmp_path / "run")


@pytest.fixture
def network(tmp_path, monkeypatch):
    """A network that has the toy world under RecBole's address of a data set; returns what it was asked for."""
    made, asked = write_toy(tmp_path / "made"), []

    def fetched(url, folder):
        asked.append(url)
        with zipfile.ZipFile(Path(folder) / "archive.zip", "w") as archive:
            archive.write(made / "toy" / "toy.inter", "archive.inter")
        return str(Path(folder) / "archive.zip")

    monkeypatch.setattr("recbole.utils.url.decide_download", lambda url: True)
    monkeypatch.setattr("recbole.utils.url.download_url", fetched)
    return asked


def test_a_data_set_recbole_knows_is_fetched_once(given, network, tmp_path):
    assert run("Pop", NAME, config_dict=given)["metrics"]["dataset"] == NAME
    assert [path.name for path in (tmp_path / "data").iterdir()] == [NAME], "nothing else is left behind"
    assert [path.name for path in (tmp_path / "data" / NAME).iterdir()] == [f"{NAME}.inter"]
    run("Pop", NAME, config_dict={**given, "run_folder": str(tmp_path / "again")})
    assert network == [addresses()[NAME]]


@pytest.mark.parametrize("why", [URLError("no network"), RuntimeError("Stopped downloading"), EOFError()])
def test_one_that_cannot_be_had_says_so_and_leaves_nothing(why, given, network, tmp_path, monkeypatch):
    def fails(*_):
        raise why

    monkeypatch.setattr("recbole.utils.url.download_url", fails)
    with pytest.raises(InputError, match=f"data set '{NAME}' cannot be fetched from https.*put its files into"):
        run("Pop", NAME, config_dict=given)
    assert not any((tmp_path / "data").iterdir()) and not (tmp_path / "run").exists()


def test_nothing_is_fetched_against_ones_will(given, network, tmp_path, monkeypatch):
    monkeypatch.setattr("recbole.utils.url.decide_download", lambda url: False)
    with pytest.raises(InputError, match="it was not agreed to"):
        run("Pop", NAME, config_dict=given)
    assert network == [] and not any((tmp_path / "data").iterdir())


def test_an_archive_that_is_none_is_refused(given, network, tmp_path, monkeypatch):
    def page(url, folder):
        path = Path(folder) / "archive.zip"
        path.write_text("<html>")
        return str(path)

    monkeypatch.setattr("recbole.utils.url.download_url", page)
    with pytest.raises(InputError, match="File is not a zip file"):
        run("Pop", NAME, config_dict=given)
    assert not any((tmp_path / "data").iterdir())
