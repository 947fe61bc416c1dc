"""Data sets RecBole knows by name, fetched from where it keeps them.

The parts are RecBole's (``recbole.utils.url``), their order is ours: its own ``Dataset._download`` ends by waiting for
other processes, which fails where there are none (1.2.1), and leaves half a folder when it is cut off.
"""

from pathlib import Path
from zipfile import BadZipFile

import recbole
import yaml
from recbole.utils import url as recbole_url

from recbole_think.artifacts import fresh_folder
from recbole_think.errors import InputError


def addresses() -> dict[str, str]:
    """Where each data set that RecBole can fetch lies, by its name."""
    path = Path(recbole.__file__).parent / "properties" / "dataset" / "url.yaml"
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def fetch(folder: Path, name: str) -> None:
    """Fetch the atomic files of a data set RecBole knows; ``folder`` appears whole or not at all.

    Raises:
        InputError: it cannot be reached or read, or the question whether to fetch so much was not answered with yes.
    """
    address = addresses()[name]
    with fresh_folder(folder, False, f"{name}.inter") as draft:
        try:
            if not recbole_url.decide_download(address):
                raise InputError(f"data set {name!r} was not fetched from {address}: it was not agreed to")
            archive = Path(recbole_url.download_url(address, str(draft)))
            recbole_url.extract_zip(str(archive), str(draft))
            archive.unlink()
            recbole_url.rename_atomic_files(str(draft), archive.stem, name)
        except (OSError, RuntimeError, EOFError, TypeError, BadZipFile) as why:  # no length, no answer, no archive
            raise InputError(
                f"data set {name!r} cannot be fetched from {address}: {str(why) or type(why).__name__}; put its files "
                f"into {folder}, or make them from raw ones (python -m recbole_think.corpus.convert --help)"
            ) from why
