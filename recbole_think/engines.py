"""Opening an engine for a ranker: vLLM in this process, or a server that must hold the ranker's own model.

The ranker's weights are handed to vLLM as a plain folder; a server holds such a folder already (``export.py``), and is
asked one question whose answer is known here before it is believed.
"""

import tempfile
from pathlib import Path

import numpy as np
import torch

from recbole_think.decoding.engine import OURS, Engine, EngineOptions
from recbole_think.errors import InputError
from recbole_think.ranker import Ranker

LONGEST = 8192  # tokens of a prompt and what follows: vLLM reserves memory for one such at least


def require_engine(name: str, options: EngineOptions) -> None:
    """Check that an engine can be asked at all, before anything else is done.

    Raises:
        InputError: something it needs is missing.
    """
    if name == "vllm":
        from recbole_think.decoding.in_process import require_vllm

        require_vllm()
    elif name == "openai":
        from recbole_think.decoding.server import require_server

        require_server(options)


def open_engine(
    name: str, options: EngineOptions, ranker: Ranker, dtype: torch.dtype, probe: np.ndarray | None = None
) -> Engine:
    """Load or connect to what will answer a ranker's prompts.

    Args:
        name: of ``engine.ENGINES``, but for this process.
        options: where it is.
        ranker: whose prompts.
        dtype: what vLLM multiplies in.
        probe: float32 [S], what ``Ranker.first_codes`` gave where its weights were; None = they are here.

    Raises:
        InputError: it cannot be loaded or reached, or holds another model.
    """
    if name == OURS:
        raise InputError(f"decode.engine={name} needs no engine")
    require_engine(name, options)
    if name == "vllm":
        return _in_process(options, ranker, dtype)
    from recbole_think.decoding.probe import Probe
    from recbole_think.decoding.server import connected

    server = connected(options)
    own = ranker.first_codes() if probe is None else probe
    server.believe(Probe(ranker.probe.tolist(), ranker.vocabulary.code_tokens[0].tolist(), own))
    return server


def _in_process(options: EngineOptions, ranker: Ranker, dtype: torch.dtype) -> Engine:
    from recbole_think.decoding.in_process import InProcess
    from recbole_think.itemic.plain import write_plain

    longest = min(LONGEST, getattr(ranker.language_model.config, "max_position_embeddings", LONGEST))
    with tempfile.TemporaryDirectory() as folder:
        write_plain(ranker.language_model, ranker.vocabulary, Path(folder))
        return InProcess(Path(folder), options, str(dtype).removeprefix("torch."), longest)
