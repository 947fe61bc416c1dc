"""Ten million items: a catalogue on disk, its codes, their trie, and what a batch pays for its size.

    python benchmarks/ten_million.py [--folder=<folder>]
        [--parts catalogue ours faiss semantic_id names collisions trie decode]

Without --folder all is done in a temporary one, which takes 16 GB. With it, parts can be done again one by one: each
keeps its own record in benchmarks/results/ten_million.json and leaves the others' alone. "ours", "faiss" and
"semantic_id" fit the same first million items (they come in no order; quantizers.py); "names" fits and names all,
"collisions" needs what it left in the folder, "trie" and "decode" what that one left. Every part is a process of its
own, so that its peak memory is its own.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import quantizers
import torch
from bench import RESULTS, in_turn, medians, options, record
from catalogue import write_catalogue
from torch import Tensor
from world import random_codes, taught_backbone, word_prompts

from recbole_think.artifacts import load_tensors, read_json, save_tensors, write_json
from recbole_think.corpus.histories import Histories
from recbole_think.decoding.beam import beam_search
from recbole_think.decoding.item_mask import ItemMask
from recbole_think.decoding.trie import SidTrie
from recbole_think.errors import InputError
from recbole_think.itemic.codes import Codes, collision_rate
from recbole_think.itemic.collisions import resolved
from recbole_think.itemic.minibatch import Named, minibatch_kmeans, named, renamed
from recbole_think.itemic.quantize import Quantizer
from recbole_think.itemic.stream import OnDisk, Streamed
from recbole_think.machine import peak_memory_mib
from recbole_think.prompts.batching import prompt_batch

LEVELS, SIZE, FEW = 4, 256, 10_000
SAMPLE = 1_000_000  # rows that are fitted; records of other samples stand beside, under names of their own
VECTORS, NAMES, CODES = "vectors.npy", "names.safetensors", "codes.safetensors"  # in the folder
MET = 50  # items of a history
REPORT = RESULTS / "ten_million.json"


def main() -> None:
    """Do the parts asked for, in this process if it is one and the folder is given."""
    parser = options(
        __doc__, items=10_000_000, columns=384, sample=SAMPLE, iterations=25, users=16, tokens=200, beams=10,
        repeats=5, seed=0,
    )  # fmt: skip
    parser.add_argument("--layers", type=int, nargs="+", default=[2, 0], help="of the backbone that decodes; 0 = whole")
    parser.add_argument("--folder", type=Path, help="where the catalogue lies (default: a temporary folder)")
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS))
    given = parser.parse_args()
    if given.folder and len(given.parts) == 1:
        one_part(given.parts[0], given)
        return
    with tempfile.TemporaryDirectory() as temporary:
        words = [word for word in sys.argv[1:] if word not in PARTS and word != "--parts"]
        for part in given.parts:
            place = [] if given.folder else [f"--folder={temporary}"]
            subprocess.run([sys.executable, __file__, *words, *place, "--parts", part], check=True)


def one_part(part: str, given: argparse.Namespace) -> None:
    """Do a part; print its outcome and put it beside those of the others."""
    given.folder.mkdir(parents=True, exist_ok=True)
    outcome = PARTS[part](given)
    told = {name: value for name, value in vars(given).items() if name not in ("folder", "parts")}
    peak = {"peak_memory_gib": round(peak_memory_mib() / 1024, 2)}
    kept = read_json(REPORT) if REPORT.exists() else {}
    of = "" if given.sample == SAMPLE else f"_of_{given.sample}"
    kept[part + of] = record(argparse.Namespace(**told), **outcome, **peak)
    for peer in ("faiss", "semantic_id"):
        if "ours" + of in kept and peer + of in kept:
            kept[f"error_over_{peer}{of}"] = kept["ours" + of]["errors"][-1] / kept[peer + of]["errors"][-1]
    write_json(REPORT, kept)
    print(part, outcome, peak, flush=True)


def catalogue(given: argparse.Namespace) -> dict[str, Any]:
    """Vectors on disk."""
    seconds: dict[str, float] = {}
    with timed(seconds, "write"):
        write_catalogue(given.folder / VECTORS, given.items, given.columns, given.seed)
    return {"seconds": seconds, "bytes": (given.folder / VECTORS).stat().st_size}


def fitted(given: argparse.Namespace, how: str) -> dict[str, Any]:
    """Seconds and errors of one way to fit the sample."""
    vectors = Streamed([np.load(given.folder / VECTORS, mmap_mode="r", allow_pickle=False)[: given.sample]], [1.0])
    sample = vectors[np.arange(given.sample)]
    del vectors  # and with it the pages of the file
    seconds: dict[str, float] = {}
    with timed(seconds, "fit"):
        centres = getattr(quantizers, how)(sample, LEVELS, SIZE, given.iterations, given.seed)
    return {
        "seconds": seconds,
        "total": float((sample**2).sum(dtype=np.float64)),
        "errors": quantizers.errors(sample, centres),
    }


def names(given: argparse.Namespace) -> dict[str, Any]:
    """The first half of what a run does with a vector file of this size (itemic/build.py), its steps timed."""
    seconds: dict[str, float] = {}
    with timed(seconds, "centre"):
        vectors = Streamed([OnDisk(given.folder / VECTORS, given.items)], [1.0])
    with timed(seconds, "sample"):
        sample = vectors.sample(given.seed)
    fitted_on = len(sample)
    with timed(seconds, "fit"):
        quantizer = minibatch_kmeans(sample, LEVELS, SIZE, given.seed)
    del sample
    with timed(seconds, "name"):
        found = named(vectors, quantizer)
    centres = {f"centres{level}": torch.from_numpy(of) for level, of in enumerate(quantizer.centres)}
    total = torch.tensor(found.total, dtype=torch.float64)
    save_tensors(
        given.folder / NAMES,
        {"codes": torch.from_numpy(found.codes), "error": torch.from_numpy(found.error), "total": total, **centres},
    )
    return {
        "seconds": seconds,
        "fitted_on": fitted_on,
        "explained": found.explained,
        "collisions": collision_rate(found.codes),
    }


def collisions(given: argparse.Namespace) -> dict[str, Any]:
    """The second half: no two items keep the same codes."""
    found = {name: tensor.numpy() for name, tensor in load_tensors(left(given, NAMES, "names")).items()}
    before = Named(found["codes"], found["error"], float(found["total"]))
    quantizer = Quantizer([found[f"centres{level}"] for level in range(LEVELS)])
    vectors = Streamed([OnDisk(given.folder / VECTORS, given.items)], [1.0])
    seconds: dict[str, float] = {}
    with timed(seconds, "reassign"):
        table = resolved(before.codes, vectors, quantizer, "reassign", before.error)
    with timed(seconds, "judge"):
        after = renamed(vectors, before, table, quantizer)
    Codes(table, (SIZE,) * LEVELS).save(given.folder / CODES)
    return {
        "seconds": seconds,
        "explained": after.explained,
        "collisions": collision_rate(table),
        "moved": float((table != before.codes).any(1).mean()),
    }


def trie(given: argparse.Namespace) -> dict[str, Any]:
    """Bytes of the trie and seconds to build it from codes."""
    table = torch.from_numpy(Codes.load(left(given, CODES, "collisions")).table)
    seconds, built = in_turn({"build": lambda: SidTrie(table)}, given.repeats)
    return {"bytes_per_item": built["build"].nbytes / len(table), "seconds": medians(seconds), "all": seconds}


def decode(given: argparse.Namespace) -> dict[str, Any]:
    """A batch over all items and over ten thousand of them, the same model, history masks made in the time."""
    table = Codes.load(left(given, CODES, "collisions")).table
    dice = np.random.default_rng(given.seed)
    few = table[np.sort(dice.choice(len(table), FEW, replace=False))]
    tries = {"few": SidTrie(torch.from_numpy(few)), "all": SidTrie(torch.from_numpy(table))}
    starts = np.arange(0, MET * given.users + 1, MET)
    histories = {
        name: Histories(starts, dice.integers(1, over.n + 1, MET * given.users)) for name, over in tries.items()
    }
    cases = []
    for layers in given.layers:
        model, vocabulary = taught_backbone(layers, random_codes(FEW, LEVELS, SIZE))  # every code, texts of few
        prompts = prompt_batch(word_prompts(given.users, given.tokens, vocabulary.first), 0)
        asked = (model, vocabulary.code_tokens, prompts, given.beams)
        sides = {name: partial(batch, *asked, over, histories[name]) for name, over in tries.items()}
        sides["all"]()  # sets up
        seconds, _ = in_turn(sides, given.repeats)
        middle = medians(seconds)
        cases.append({"layers": layers, "seconds": seconds, "medians": middle, "ratio": middle["all"] / middle["few"]})
    return {"cases": cases}


def batch(
    model: Any, code_tokens: list, prompts: tuple[Tensor, Tensor], beams: int, over: SidTrie, histories: Histories
) -> None:
    """Mask what the users met, and search."""
    count = histories.n_users
    users, items = map(torch.from_numpy, histories.cells(np.arange(count)))
    masked = ItemMask(users, items - 1, (count, over.n))
    beam_search(model, *prompts, over, code_tokens, beams, "level", item_mask=masked)


def left(given: argparse.Namespace, name: str, part: str) -> Path:
    """A file that another part left in the folder."""
    path = given.folder / name
    if not path.exists():
        raise InputError(f"no {path}: do the part {part} first, with the same --folder")
    return path


@contextmanager
def timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    """Put down how long a block took."""
    start = time.perf_counter()
    yield
    seconds[name] = round(time.perf_counter() - start, 2)


PARTS = {
    "catalogue": catalogue,
    "ours": lambda given: fitted(given, "ours"),
    "faiss": lambda given: fitted(given, "faiss"),
    "semantic_id": lambda given: fitted(given, "semantic_id"),
    "names": names,
    "collisions": collisions,
    "trie": trie,
    "decode": decode,
}


if __name__ == "__main__":
    try:
        main()
    except InputError as why:
        sys.exit(f"error: {why}")
