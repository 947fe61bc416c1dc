"""The backbone's own answers to our questions: general text where no hub and no corpus is at hand (self-distillation).

Takes the whole backbone, whatever part of it is taught later (a few layers of it cannot speak), and keeps the answers
in the cache, so that they are made once a machine. Answers are sampled with a seed of their own.
"""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from recbole_think.artifacts import digest, write_text
from recbole_think.errors import InputError
from recbole_think.itemic.backbone import load_backbone
from recbole_think.itemic.options import BackboneOptions
from recbole_think.processes import first_alone
from recbole_think.prompts.alignment import GeneralText, chat, template_ids
from recbole_think.prompts.batching import prompt_batch
from recbole_think.prompts.general import read_general
from recbole_think.stages.precision import fastest

TEMPERATURE, TOP_K, SEED = 0.7, 40, 0  # nucleus sampling would sort 49,152 words for every token
TOGETHER = 64  # questions answered side by side


def own_answers(
    options: BackboneOptions,
    asked: Sequence[str],
    longest: int,
    cache: Path,
    corpus: Sequence[str],
    seed: int,
) -> list[GeneralText]:
    """Answer ``asked`` with the whole backbone, or read the answers it gave before.

    Args:
        options: the backbone.
        asked: our questions.
        longest: most tokens of an answer.
        cache: folder for the answers.
        corpus: texts the ``tiny`` backbone's tokenizer is trained on.
        seed: of the ``tiny`` backbone's weights.

    Raises:
        InputError: the backbone says nothing.
    """
    model: Any
    model, tokenizer = load_backbone(replace(options, layers=0), cache, corpus, seed)
    key = digest([options.name, _content(model), list(asked), longest, TEMPERATURE, TOP_K, SEED], 16)
    path = cache / "own_answers" / f"{key}.jsonl"
    if path.is_file():
        return read_general(path)
    with first_alone() as mine:
        if mine:
            _keep_answers(path, model, tokenizer, options.name, asked, longest)
    return read_general(path)


def _keep_answers(path: Path, model: Any, tokenizer: Any, name: str, asked: Sequence[str], longest: int) -> None:
    dtype, _ = fastest(model.config.hidden_size, model.config.intermediate_size)
    answers = _generate(model.to(dtype), tokenizer, asked, longest)
    pairs = [{"prompt": question, "answer": answer} for question, answer in zip(asked, answers, strict=True)]
    said = [json.dumps(pair, ensure_ascii=False) for pair in pairs if pair["answer"].strip()]
    if len(said) < 2:
        raise InputError(f"backbone {name!r} answers none of our questions; name general text in alignment.general")
    write_text(path, "\n".join(said) + "\n")


def _content(model: Any) -> str:
    """Digest of the weights that matter most to what is said."""
    return digest([name for name, _ in model.named_parameters()] + model.get_input_embeddings().weight[::97].tolist())


def _asked(tokenizer: Any, question: str) -> np.ndarray:
    return np.array(template_ids(tokenizer, "".join(chat(tokenizer, "", question))), dtype=np.int64)


def _generate(model: Any, tokenizer: Any, asked: Sequence[str], longest: int) -> list[str]:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = model.to(device).eval()
    model.set_attn_implementation("sdpa")  # one query at a time, the fused kernel is the faster one here too
    answers: list[str] = []
    with torch.random.fork_rng(), tqdm(total=len(asked), desc="general text", unit="answer") as bar:
        torch.manual_seed(SEED)
        for begin in range(0, len(asked), TOGETHER):
            prompts = [_asked(tokenizer, question) for question in asked[begin : begin + TOGETHER]]
            ids, mask = prompt_batch(prompts, tokenizer.pad_token_id)
            with torch.no_grad():
                out = model.generate(
                    input_ids=ids.to(device), attention_mask=mask.to(device), max_new_tokens=longest,
                    do_sample=True, temperature=TEMPERATURE, top_k=TOP_K,
                )  # fmt: skip
            answers += tokenizer.batch_decode(out[:, ids.shape[1] :], skip_special_tokens=True)
            bar.update(len(prompts))
    return answers
