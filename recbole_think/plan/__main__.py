"""What a catalogue and its users would take, on paper, with every assumption.

python -m recbole_think.plan --items=1e8 --users=1e9 [--backbone=qwen3-1.7b --gpu=h200 --<assumption>=<value> ...]

Every number is followed by its formula, in the words of the assumptions; docs/scale.md compares the formulas with what
was measured. rate = device FLOP/s x flops_share, bandwidth = device bytes/s x bandwidth_share.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from recbole_think.artifacts import load_tensors, read_json
from recbole_think.errors import InputError, exit_code
from recbole_think.options import near_hint
from recbole_think.plan import building, running
from recbole_think.plan.assumptions import Assumptions, assumed, read
from recbole_think.plan.backbones import BACKBONES
from recbole_think.plan.crowd import Crowd
from recbole_think.plan.lines import Line, printed

SECTIONS = {
    "The catalogue": building.catalogue,
    "Making codes": building.codes,
    "Memory while learning": building.learning_memory,
    "Learning": building.learning,
    "Thinking ahead": running.thinking,
    "The store": running.store,
    "Answering": running.serving,
    "Prompts kept": running.prompts,
    "The network": running.network,
    "Done anew": running.cadence,
}


def plan(given: Assumptions) -> dict[str, list[Line]]:
    """Every section of a plan: its lines by its name.

    Raises:
        InputError: a device too small for it.
    """
    Crowd(given).require_room()
    return {name: section(given) for name, section in SECTIONS.items()}


def of_run(folder: Path, items: str | None = None) -> dict[str, str]:
    """Assumptions a run folder settles: backbone and its layers, items and codes, history, thoughts and beams.

    Args:
        folder: of the run.
        items: those to plan for, if others; where the run's codes cannot name so many, codes are left to others.

    Raises:
        InputError: no run of OneRecThink, or one whose backbone has no sizes here.
    """
    for name in ("config.json", "itemic/codes.safetensors"):
        if not (folder / name).is_file():
            raise InputError(f"{folder} is no run folder of OneRecThink: {name} is missing")
    config, table = read_json(folder / "config.json"), load_tensors(folder / "itemic" / "codes.safetensors")
    named, decode = config["backbone"]["name"].split("/")[-1].lower(), config["decode"]
    if named not in BACKBONES:
        raise InputError(f"{folder} has the backbone {named!r}, which has no sizes here; known: {', '.join(BACKBONES)}")
    found = {
        "backbone": named, "layers": config["backbone"]["layers"], "history": config["prompts"]["max_history"],
        "thoughts": decode["thoughts"], "thought_tokens": decode["thought_tokens"],
        "prefixes": decode["thought_beams"], "beams": decode["num_beams"], "items": items or len(table["codes"]),
    }  # fmt: skip
    levels, size = len(table["sizes"]), int(max(table["sizes"]))
    if size**levels >= read("items", str(found["items"])):
        found |= {"levels": levels, "size": size, "prefix_levels": max(1, min(2, levels - 1))}
    else:
        told = f"the run's {levels} levels of {size} codes cannot name {items} items: planned with other codes"
        sys.stderr.write(f"note: {told} (--levels, --size)\n")
    return {name: str(value) for name, value in found.items()}


def describe(given: Assumptions, sections: dict[str, list[Line]]) -> str:
    """The plan as text: what it assumes, then its sections."""
    device, told = given.device, ["Assumed"]
    for one in fields(given):
        value: Any = getattr(given, one.name)
        number = value if isinstance(value, str) else f"{value:,}" if isinstance(value, int) else f"{value:g}"
        told.append(f"  {one.name + ':':<24} {number:>15}   {one.metadata['says']}")
    told.append(f"  {given.gpu}: {device.flops_per_s:.3g} FLOP/s, {device.bytes_per_s:.3g} B/s, "
                f"{device.memory_bytes:.3g} B, {device.number_bytes} bytes a number ({device.source})")  # fmt: skip
    return "\n".join(told) + "\n" + printed(sections)


def main(words: Sequence[str]) -> int:
    """Run the command line; return 0, or 2 where what was asked for cannot be planned."""
    known, unknown = _parser().parse_known_args(words)
    given = vars(known)
    as_json, run_folder = given.pop("json"), given.pop("from")

    def work() -> int:
        for word in unknown:
            name = word.removeprefix("--").partition("=")[0]
            raise InputError(f"unknown option {word!r}{near_hint(name, given, '--')}; --help lists them")
        settled = of_run(Path(run_folder).expanduser(), given["items"]) if run_folder else {}
        asked = assumed({**settled, **{name: text for name, text in given.items() if text is not None}})
        sections = plan(asked)
        if as_json:
            told = {name: [asdict(line) for line in lines] for name, lines in sections.items()}
            text = (
                json.dumps({"assumptions": asdict(asked), "device": asdict(asked.device), "plan": told}, indent=2)
                + "\n"
            )
        else:
            text = describe(asked, sections)
        sys.stdout.write(text)
        return 0

    return exit_code(work, "nothing was written")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m recbole_think.plan", description=__doc__, allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="assumptions and lines as JSON")
    parser.add_argument("--from", metavar="FOLDER", help="of a run whose sizes are taken where no other are given")
    for one in fields(Assumptions):
        says = one.metadata["says"].replace("%", "%%")
        names = f": {', '.join(one.metadata['names'])}" if "names" in one.metadata else ""
        parser.add_argument(f"--{one.name}", metavar="VALUE", help=f"{says}{names} (default: {one.default})")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
