"""What OneRecThink can check of a configuration before data is loaded and anything is written."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from recbole_think import processes
from recbole_think.blocks import BLOCKS, STAGES
from recbole_think.corpus.items import read_rows
from recbole_think.corpus.users import require_known
from recbole_think.errors import InputError
from recbole_think.itemic.stream import too_large
from recbole_think.options import near_hint, read_options
from recbole_think.prompts.options import OWN
from recbole_think.stages.four_bit import require_four_bit
from recbole_think.stages.sharding import require_sharding


def require_inputs(config) -> None:
    """Check options and files before anything is written.

    Raises:
        InputError: an option or a file that cannot be used.
    """
    blocks: dict[str, Any] = {name: read_options(cls, config[name], name) for name, cls in BLOCKS.items()}
    _require_stages(config)
    _require_fresh(blocks, config["stages"])
    if "activation" in config["stages"] and too_large(blocks["itemic"].vector_files):
        raise InputError(
            "stages: activation compares the vectors of all items in memory, and itemic.vector_files are too large for "
            "it; leave activation and enhancement out, or give smaller vectors"
        )
    _require_lists(blocks["decode"], config)
    _require_engine(blocks)
    require_sharding(config["sharding"], dict(os.environ))
    for name in config["stages"]:
        if getattr(blocks[name], "four_bit", False):
            require_four_bit(name, blocks[name].lora_rank, config["sharding"])
    for name in {"item_enhancement", "enhancement"} & set(config["stages"]):
        blocks[name].require_shares(processes.count())
    path = atomic_file(config, "item")
    if path.parent.is_dir():  # absent: RecBole is about to download it
        read_rows(path, config["ITEM_ID_FIELD"])
    users = atomic_file(config, "user")
    if users.is_file():
        require_known(users, config["USER_ID_FIELD"], atomic_file(config, "inter"))


def require_sources(config) -> None:
    """Check where general text, soft labels and rationales come from: a taught model does without them.

    Raises:
        InputError: one of them cannot be used.
    """
    blocks: dict[str, Any] = {name: read_options(cls, config[name], name) for name, cls in BLOCKS.items()}
    stages = config["stages"]
    if blocks["alignment"].general != OWN:
        from recbole_think.prompts.general import read_general

        read_general(Path(blocks["alignment"].general))
    if {"recommendation", "activation"} & set(stages) and blocks["distillation"].teachers:
        from recbole_think.distillation import require_teachers

        require_teachers(blocks["distillation"].teachers)
    if "activation" in stages and blocks["activation"].source == "teacher":
        from recbole_think.stages.teaching import require_teacher

        require_teacher(blocks["teacher"])
    if "enhancement" in stages and blocks["enhancement"].vllm:
        from recbole_think.stages.vllm_fit import require_vllm

        require_vllm(blocks["enhancement"], config["sharding"])


def atomic_file(config, kind: str) -> Path:
    """Path of the data set's .item, .user or .inter file."""
    return Path(config["data_path"]) / f"{config['dataset']}.{kind}"


def _require_stages(config) -> None:
    stages, given = config["stages"], config["stages_from"]
    for stage in stages:
        if stage not in STAGES:
            raise InputError(f"unknown stage {stage!r}{near_hint(stage, STAGES)}; stages: {', '.join(STAGES)}")
    if "enhancement" in stages and "activation" not in stages:
        raise InputError(
            "stages: enhancement lets thoughts compete, which activation teaches: name activation as well "
            "(--stages_from takes a finished one)"
        )
    if given and not (Path(given) / "config.json").is_file():
        raise InputError(f"stages_from={given!r} is no run folder (no config.json): name one, or leave it out")


def _require_fresh(blocks: dict[str, Any], stages: list[str]) -> None:
    """What one stage learnt from is not fresh for the next."""
    fresh = [name for name in ("item_enhancement", "enhancement") if name in stages and blocks[name].fresh]
    if len(fresh) > 1:
        raise InputError(
            "item_enhancement.fresh and enhancement.fresh: both want every user's last training event that no stage "
            "before was taught; set one of them to false"
        )


def _require_engine(blocks: dict[str, Any]) -> None:
    from recbole_think.engines import require_engine

    require_engine(blocks["decode"].engine, blocks["engine"])


def _require_lists(decode: Any, config) -> None:
    """Lists must be as long as they are measured, and made of the whole catalogue."""
    decode = replace(decode, think=decode.think and "activation" in config["stages"])
    name = "thought_beams" if decode.think else "num_beams"
    beams, longest = decode.shortest_list, max(config["topk"])
    if beams < longest:
        raise InputError(
            f"decode.{name}={beams} cannot fill a top-{longest} list: set decode.{name} >= {longest}, or lower topk"
        )
    for phase, mode in config["eval_args"]["mode"].items():
        if mode != "full":
            raise InputError(
                f"eval_args.mode={mode!r} ({phase}): a generative model names items out of the whole catalogue; "
                f"set eval_args.mode=full"
            )
