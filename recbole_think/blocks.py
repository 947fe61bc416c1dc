"""The blocks of OneRecThink.yaml, one per room, and what RecBole's own keys must be because of them."""

from pathlib import Path

from recbole_think.decoding.engine import EngineOptions
from recbole_think.decoding.options import DecodeOptions
from recbole_think.errors import InputError
from recbole_think.instruments import InstrumentOptions
from recbole_think.itemic.options import BackboneOptions, ItemicOptions
from recbole_think.prompts.options import OWN, AlignmentOptions, PromptOptions
from recbole_think.stages.activation_options import ActivationOptions, TeacherOptions
from recbole_think.stages.options import (
    DistillationOptions,
    MultiTaskOptions,
    RecommendationOptions,
    WarmupOptions,
)
from recbole_think.stages.reinforcement import EnhancementOptions, ItemEnhancementOptions
from recbole_think.stages.rewards import RewardOptions

BUILT_IN = ("smollm2-135m", "tiny")  # backbones that need no folder
STAGES = (  # in the order they may run
    "token_warmup", "multi_task", "recommendation", "item_enhancement", "activation", "enhancement",
)  # fmt: skip
BLOCKS = {
    "itemic": ItemicOptions,
    "backbone": BackboneOptions,
    "prompts": PromptOptions,
    "alignment": AlignmentOptions,
    "token_warmup": WarmupOptions,
    "multi_task": MultiTaskOptions,
    "recommendation": RecommendationOptions,
    "distillation": DistillationOptions,
    "item_enhancement": ItemEnhancementOptions,
    "activation": ActivationOptions,
    "teacher": TeacherOptions,
    "enhancement": EnhancementOptions,
    "rewards": RewardOptions,
    "decode": DecodeOptions,
    "engine": EngineOptions,
    "instruments": InstrumentOptions,
}


def settle(final: dict) -> None:
    """Derive RecBole's keys from ours: one truth per fact."""
    for name in BLOCKS:
        if not isinstance(final.get(name) or {}, dict):
            raise InputError(f"{name} must be a block of options, got {final[name]!r}")
    if not isinstance(final.get("stages") or [], list):
        raise InputError(f"stages must be a list such as [recommendation], got {final['stages']!r}")
    final["stages"] = final.get("stages") or []
    if final.get("stages_from"):
        final["stages_from"] = str(Path(str(final["stages_from"])).expanduser().resolve())
    final["MAX_ITEM_LIST_LENGTH"] = (final.get("prompts") or {}).get("max_history", PromptOptions.max_history)
    _make_paths_absolute(final)


def _make_paths_absolute(final: dict) -> None:
    """The run works inside its own folder: paths of the caller are made absolute before."""
    for block, key, own in (("backbone", "name", BUILT_IN), ("itemic", "encoder", ("packaged",))):
        name = (final.get(block) or {}).get(key)
        if isinstance(name, str) and name not in own and Path(name).expanduser().is_dir():
            final[block][key] = str(Path(name).expanduser().resolve())
    general = (final.get("alignment") or {}).get("general")
    if isinstance(general, str) and general != OWN:
        final["alignment"]["general"] = str(Path(general).expanduser().resolve())
    for block, key in (("itemic", "codes_file"), ("itemic", "ids_file"), ("activation", "rationales")):
        file = (final.get(block) or {}).get(key)
        if isinstance(file, str) and file:
            final[block][key] = str(Path(file).expanduser().resolve())
    for block, key in (("itemic", "vector_files"), ("distillation", "teachers")):
        files = (final.get(block) or {}).get(key)
        if isinstance(files, list):
            final[block][key] = [str(Path(str(file)).expanduser().resolve()) for file in files]
