import sys
from pathlib import Path

import pytest
import torch

# so that `from tests.toy import ...` works for `pytest` as it does for `python -m pytest`
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.toy import write_toy


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Toy tensors are too small to share: one thread is faster, and sums come out in one order everywhere."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def toy_path(tmp_path_factory) -> Path:
    """The walking world of tests/toy.py, to be given as ``data_path``; the data set is called ``toy``."""
    return write_toy(tmp_path_factory.mktemp("data"))
