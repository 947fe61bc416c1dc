"""A finished run of OneRecThink as a plain Hugging Face folder, and such a folder as a recommender.

    python -m recbole_think.export <run folder> <folder>

The folder holds the model with one table of rows (``itemic/plain.py``), its tokenizer with chat template,
``itemic.json`` (codes of every item by raw id, and how lists are made) and a model card; ``AutoModelForCausalLM`` reads
it without this package. ``read_export`` reads it with it, and gives the very lists of the run, as the command checks.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from recbole_think.artifacts import fresh_folder, read_json, write_json, write_text
from recbole_think.catalog import family
from recbole_think.decoding.engine import OURS, EngineOptions
from recbole_think.decoding.options import DecodeOptions
from recbole_think.errors import InputError
from recbole_think.itemic.codes import Codes
from recbole_think.options import near_hint
from recbole_think.ranker import Ranker

FACTS = "itemic.json"
CARD = "README.md"


@dataclass(frozen=True)
class Exported:
    """An exported model, ready to recommend."""

    ranker: Ranker
    decode: DecodeOptions
    dtype: torch.dtype  # lists are computed in
    masked: bool  # whether the run left out what a history holds
    ids: list[str]  # raw id of item r + 1
    titles: list[str]

    @property
    def longest(self) -> int:
        """Length of a list that can always be filled."""
        return min(self.decode.shortest_list, len(self.ids))

    def recommend(
        self, history: Sequence[str], k: int = 10, mask_history: bool | None = None, instruction: str = ""
    ) -> list[str]:
        """Raw ids of the ``k`` best items after a history, best first.

        Args:
            history: raw item ids, oldest first.
            k: length of the list, at most what ``decode`` names.
            mask_history: leave out what the history holds; by default as the run was evaluated.
            instruction: a wish in words, for a model that thinks.

        Raises:
            InputError: an id nobody knows, or a list longer than can be filled.
        """
        number = {name: row for row, name in enumerate(self.ids)}
        for name in history:
            if name not in number:
                raise InputError(f"unknown item {name!r}{near_hint(str(name), number)}")
        if not history:
            raise InputError("an empty history: name at least one item")
        if not 1 <= k <= self.longest:
            raise InputError(f"k must be 1 to {self.longest}, got {k}")
        rows = np.array([number[name] for name in history])
        mask = torch.zeros(1, len(self.ids), dtype=torch.bool)
        mask[0, rows] = self.masked if mask_history is None else mask_history
        prompts = self.ranker.prompts([rows + 1], instruction)
        [found] = self.ranker.rank(prompts, lambda places: mask[places], self.decode, self.dtype)
        return [self.ids[item - 1] for item in found[:k]]


def export(run_folder: str | Path, folder: Path, replace: bool = False) -> None:
    """Write a finished run of OneRecThink as a plain folder.

    Raises:
        InputError: it is no finished run, or of another model, or the folder is not empty.
    """
    from recbole_think.itemic.plain import write_plain

    run = _loaded(run_folder)
    model = run.model
    with fresh_folder(folder, replace, FACTS) as draft:
        write_plain(model.language_model, model.vocabulary, draft)
        write_json(draft / FACTS, _facts(run))
        write_text(draft / CARD, card(run))


def read_export(folder: str | Path, server: EngineOptions | None = None) -> Exported:
    """Read what ``export`` wrote.

    Args:
        folder: of an exported run.
        server: that has loaded this folder and computes everything; no weights are read here then.

    Raises:
        InputError: it is no such folder, or damaged; the server cannot be reached, or has loaded another.
    """
    from recbole_think.itemic.plain import known_vocabulary, parted, read_plain, read_tokenizer

    path = Path(folder).expanduser()
    if not (path / FACTS).is_file():
        raise InputError(f"{path} is no exported run: it has no {FACTS}")
    facts = read_json(path / FACTS)
    codes = Codes(np.array([item["codes"] for item in facts["items"]]), tuple(facts["sizes"]))
    model, tokenizer = read_plain(path) if server is None else (None, read_tokenizer(path))
    vocabulary = known_vocabulary(tokenizer, codes)
    if model is not None:
        parted(model, vocabulary)
    words = torch.tensor(facts["thought_tokens"], dtype=torch.int64)
    ranker = Ranker(model, vocabulary, codes, facts["max_history"], words, facts["seed"])
    ids, titles = ([item[name] for item in facts["items"]] for name in ("id", "title"))
    decode, dtype = DecodeOptions(**facts["decode"]), getattr(torch, facts["precision"])
    if server is not None:
        from recbole_think.engines import open_engine

        decode = replace(decode, engine="openai")
        ranker.engine = open_engine("openai", server, ranker, dtype, np.array(facts["first_codes"], np.float32))
    return Exported(ranker, decode, dtype, facts["mask_history"], ids, titles)


def agreement(run_folder: str | Path, folder: Path, users: int) -> tuple[int, int]:
    """How many of some users get the very list from the folder that the run gives them, and how many were asked."""
    run, exported = _loaded(run_folder), read_export(folder)
    histories = run.splits["test"][1]
    same, k = 0, min(10, exported.longest)
    asked = [user for user in range(1, histories.n_users) if len(histories.of(user))][:users]
    for user in asked:
        history = [exported.ids[item - 1] for item in histories.of(user).tolist()]
        wanted = [one.item_id for one in run.recommend(history, k)]
        same += wanted == exported.recommend(history, k)[: len(wanted)]
    return same, len(asked)


def _loaded(run_folder: str | Path):
    from recbole_think.loading import load

    run = load(run_folder)
    if family(run.config["model"]) != "OneRecThink":
        raise InputError(f"{run_folder} is a run of {run.config['model']}; only OneRecThink holds a language model")
    return run


def _facts(run) -> dict[str, Any]:
    """What a reader needs besides weights and tokenizer."""
    model = run.model
    names, titles = run.names, run.titles
    return {
        "format": 2,
        "levels": model.codes.levels,
        "sizes": list(model.codes.sizes),
        "prompt": model.vocabulary.tokenizer.decode(model.ranker.frame),
        "max_history": model.ranker.max_history,
        "decode": asdict(replace(model.decode, engine=OURS)),
        "first_codes": model.ranker.first_codes().round(4).tolist(),
        "precision": str(model.dtype()).removeprefix("torch."),
        "mask_history": bool(run.config["mask_history"]),
        "seed": model.ranker.seed,
        "data_fingerprint": run.metrics["data_fingerprint"],
        "thought_tokens": model.ranker.words.tolist(),
        "items": [
            {"id": names[row + 1], "title": titles[row + 1], "codes": codes, "tokens": model.vocabulary.spell(row + 1)}
            for row, codes in enumerate(model.codes.table.tolist())
        ],
    }


def card(run) -> str:
    """The model card: what it is, what it was measured to do, how to use it."""
    metrics, model = run.metrics, run.model
    rows = "".join(
        f"| {name} | {value:.4f} | {metrics['test_other_masking'][name]:.4f} |\n"
        for name, value in metrics["test"].items()
    )
    here, other = ("left out", "allowed") if metrics["mask_history"] else ("allowed", "left out")
    asked = "every event of the test file" if run.config["benchmark_filename"] else "last event of every user"
    backbone = run.config["backbone"]["name"]
    example = model.vocabulary.spell(1)
    return f"""---
library_name: transformers
tags: [recommendation, semantic-ids, onerec-think]
---
# OneRecThink on {metrics["dataset"]}

A language model ({backbone}, {metrics["parameters"]:,} parameters) that names the next item of a history by its itemic
tokens (OneRec-Think, arXiv 2510.11639), made by RecBole-Think:

    {metrics["command"]}

Commit {metrics["commit"]}, data fingerprint {metrics["data_fingerprint"]}, {len(run.names) - 1:,} items,
{metrics["users"]:,} users ranked, finished {metrics["finished"]}. The terms of the backbone and of the data set hold
for this model as well.

## Measured

Test split, {asked}, the whole catalogue ranked:

| | items met before {here} | items met before {other} |
|---|---|---|
{rows}
## Use

    from transformers import AutoModelForCausalLM, AutoTokenizer
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)

`{FACTS}` has the prompt (a history's tokens follow it, oldest first, at most {model.ranker.max_history} items, such as
`{example}`), the codes of every item by its id, and how lists are made. Free generation may name no item: hold it to
the codes there, or use `recbole_think.export.read_export(folder).recommend([...])`, which gives the lists measured
above.
{_data_card(Path(run.config["data_path"]) / CARD)}"""


def _data_card(path: Path) -> str:
    """The card that lies beside the data, where one does, as a section."""
    if not path.is_file():
        return ""
    lines = path.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return "\n## The data set\n\n" + "\n".join(f"##{line}" if line.startswith("#") else line for line in lines) + "\n"


def main(words: Sequence[str]) -> int:
    """Export, check, and say so; return 0, 1 where lists differ, 2 where it cannot be done."""
    parser = argparse.ArgumentParser(
        prog="python -m recbole_think.export", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run_folder")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--replace", action="store_true", help="make an export that is there already anew")
    parser.add_argument("--check", type=int, default=20, help="users whose lists are compared afterwards (default: 20)")
    given = parser.parse_args(words)
    try:
        export(given.run_folder, given.folder, given.replace)
        same, asked = agreement(given.run_folder, given.folder, given.check) if given.check else (0, 0)
    except InputError as why:
        sys.stderr.write(f"error: {why}\n")
        return 2
    sys.stdout.write(f"written: {given.folder}\n")
    if asked:
        sys.stdout.write(f"read back, it gives {same} of {asked} users the very list of the run\n")
    return 0 if same == asked else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
