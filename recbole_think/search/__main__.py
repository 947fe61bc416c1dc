"""Search hyper-parameters on validation.

python -m recbole_think.search search.yaml                     a YAML with model, dataset, space, trials, options
python -m recbole_think.search hyper.test --model=SASRec --dataset=ml-100k    RecBole's own format

    model: SASRecAll
    dataset: ml-100k
    trials: 20
    options: {epochs: 30}                 # of every trial
    space:
      learning_rate: {log: [0.0003, 0.01]}
      hidden_dropout_prob: {uniform: [0.1, 0.5, 0.1]}
      n_layers: {int: [1, 3]}
      hidden_size: [64, 128]

The same command goes on where a search was cut off; more --trials add to it.
"""

import argparse
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from recbole_think.artifacts import differing, read_json, write_json
from recbole_think.errors import InputError, exit_code
from recbole_think.options import near_hint

KEYS = ("model", "dataset", "space", "trials", "sampler", "seed", "options")


def main(argv: Sequence[str]) -> int:
    """Run the command line; return 0, or 2 where what was asked for cannot be done."""
    given, more = _parser().parse_known_args(argv)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends the trial at work, as Ctrl-C does
    return exit_code(lambda: _search(given, more), "the same command goes on where it was")


def _search(given: argparse.Namespace, more: Sequence[str]) -> int:
    try:
        import optuna  # noqa: F401
    except ImportError as why:
        raise InputError("a search needs Optuna: pip install optuna") from why
    from recbole_think.leaderboard.running import alone
    from recbole_think.search.report import write
    from recbole_think.search.study import finished, study_of

    search = _read(given, more)
    search.check()
    with alone(search.folder / "trials.csv"):
        _claim(search)
        study = study_of(search)
        left = search.wanted - len(finished(study))
        with tqdm(total=max(left, 0), desc="search", unit="trial") as bar:
            _run(search, study, left, bar)
        sys.stdout.write(write(search, study))
    return 0


def _run(search: Any, study: Any, left: int, bar: tqdm) -> None:
    from recbole_think.search.report import write
    from recbole_think.search.study import HOPELESS, TrialError, finished, scored, waiting

    failed: list[str] = []
    while left > 0 and (search.sampler != "grid" or waiting(study)):
        before = len(finished(study))
        study.optimize(lambda trial: scored(search, trial), n_trials=1, catch=(TrialError,))
        if len(finished(study)) == before:
            reason = study.trials[-1].user_attrs.get("reason", "it was cut off")
            failed.append(reason)
            bar.write(f"trial {study.trials[-1].number} failed: {reason}", file=sys.stderr)
            if not before and len(failed) >= HOPELESS:
                raise InputError(f"the first {HOPELESS} trials failed, the last one so: {reason}")
            if len(failed) >= search.trials:
                sys.stderr.write(
                    f"{len(failed)} trials failed: the search ends before {search.trials} have ended well\n"
                )
                return
            continue
        left -= 1
        bar.update()
        bar.set_postfix(best=f"{study.best_value:.4f}")
        write(search, study)


def _claim(search: Any) -> None:
    """Refuse a folder of another search."""
    path = search.folder / "search.json"
    if path.is_file():
        for key, wanted in differing(read_json(path), search.identity()).items():
            raise InputError(
                f"{search.folder} holds a search with another {key}, this one has {wanted!r}; choose another --folder"
            )
    else:
        write_json(path, search.identity())


def _read(given: argparse.Namespace, more: Sequence[str]) -> Any:
    from recbole_think.search.space import loaded, read_hyper_file, read_space
    from recbole_think.search.study import Search

    if not given.file.is_file():
        raise InputError(f"no file {str(given.file)!r}; --help shows what one looks like")
    told: dict[str, Any] = {}
    if given.file.suffix in (".yaml", ".yml"):
        told = loaded(given.file.read_text(encoding="utf-8"), str(given.file)) or {}
        if not isinstance(told, dict):
            raise InputError(f"{given.file}: expected key: value lines, got {type(told).__name__}")
        for key in told:
            if key not in KEYS:
                raise InputError(f"{given.file}: unknown key {key!r}{near_hint(key, KEYS)}; keys: {', '.join(KEYS)}")
        space = read_space(told.pop("space", None), str(given.file))
    else:
        space = read_hyper_file(given.file)
    told |= {key: getattr(given, key) for key in ("model", "dataset", "trials", "sampler") if getattr(given, key)}
    for key in ("model", "dataset"):
        if not told.get(key):
            raise InputError(f"{key} is missing: name it in {given.file} or by --{key}=<name>")
    words = [f"--data_path={Path(given.data_path).expanduser().resolve()}"] if given.data_path else []
    folder = given.folder or Path("runs") / "search" / f"{given.file.stem}-{told['model']}-{told['dataset']}"
    options = told.pop("options", None) or {}
    options = {**options, **_options(more)} if isinstance(options, dict) else options
    return Search(space=space, folder=folder.expanduser().resolve(), words=words, options=options, **told)


def _options(words: Sequence[str]) -> dict[str, Any]:
    from recbole_think.search.space import loaded

    found = {}
    for word in words:
        key, equals, text = word.removeprefix("--").partition("=")
        if not (word.startswith("--") and equals and key):
            raise InputError(f"write options as --key=value, got {word!r}")
        found[key] = loaded(text, f"--{key}")
    return found


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m recbole_think.search", description=__doc__, allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter, epilog="Any other --key=value is set in every trial.",
    )  # fmt: skip
    parser.add_argument("file", type=Path, help="YAML, or a file such as RecBole's hyper.test")
    parser.add_argument("--model", default="")
    parser.add_argument("--dataset", default="")
    parser.add_argument("--data_path", default="", help="where <dataset>/<dataset>.inter lies (default: as for a run)")
    parser.add_argument("--trials", type=int, default=0, help="that end well, in all (default: 20)")
    parser.add_argument("--sampler", default="", help="tpe, random or grid (default: tpe)")
    parser.add_argument("--folder", type=Path, help="of the search (default: runs/search/<file>-<model>-<dataset>)")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
