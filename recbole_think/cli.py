"""The command line: words in, one experiment, tables out. Exit codes: 0 done, 2 something asked for cannot be done."""

import contextlib
import json
import logging
import os
import sys
from collections.abc import Sequence

from recbole_think import processes
from recbole_think.errors import InputError
from recbole_think.memory import keep_memory
from recbole_think.quiet import quiet

USAGE = """\
python run_recbole_think.py --model=<name> --dataset=<name> [--data_path=<folder>] [options]

  --model=OneRecThink       any name of --list
  --dataset=ml-100k         a data set of properties/dataset, or a folder of atomic files under --data_path
  --data_path=<folder>      where <dataset>/<dataset>.inter lies (default: dataset/; ml-100k comes with RecBole)
  --config_files="a b"      YAML files laid over the defaults, later ones win
  --<key>=<value>           any option; blocks by dots, such as --recommendation.epochs=2 or --decode.num_beams=50
  --seed=2020               seed of everything
  --mask_history=true       items a user already met cannot be recommended (default: the data set's YAML)
  --run_folder=<folder>     where the run is kept (default: runs/<dataset>/<model>-<digest of the configuration>)
  --restart                 empty the run folder first; without it a finished run is read back, an interrupted one
                            goes on
  --dry_run                 sizes, tokens per stage, estimated time and memory from a probe of ten seconds; no training
  --json                    print metrics.json alone
  --show_config             print every setting in effect and the layer that set it, and stop
  --list                    list the models and data sets
  --help                    this text; with --model=<name> also the options of that model
"""
FLAGS = ("--help", "-h", "--list", "--json", "--restart", "--dry_run", "--show_config")


def main(argv: Sequence[str]) -> int:
    """Run the command line; return the exit code."""
    try:
        return _run(list(argv))
    except (InputError, FloatingPointError) as why:  # numbers that ran away are mended by settings, too
        sys.stderr.write(f"error{_of_process()}: {why}\n")
        return 2
    except processes.LostProcessError:
        sys.stderr.write(
            f"error{_of_process()}: another process of the job is gone; the same command goes on from the last "
            "checkpoint\n"
        )
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("interrupted; the same command goes on from the last checkpoint\n")
        return 130


def _of_process() -> str:
    return f" (process {processes.number()} of {processes.launched()})" if processes.launched() > 1 else ""


def entry() -> None:
    """Console script."""
    sys.exit(main(sys.argv[1:]))


def _run(argv: list[str]) -> int:
    flags = {word for word in argv if word in FLAGS}
    options = _single_words([word for word in argv if word not in FLAGS])
    if "--list" in flags:
        sys.stdout.write(_listing())
        return 0
    if flags & {"--help", "-h"} or not argv:
        sys.stdout.write(USAGE + _model_help(options.get("model")))
        return 0
    for key in ("model", "dataset"):
        if not options.get(key):
            raise InputError(f"--{key}=<name> is missing; see --help and --list")
    _quiet()
    keep_memory()
    rest = [word for word in argv if word not in FLAGS and _key(word) not in ("model", "dataset", "config_files")]
    files = str(options.get("config_files", "")).split()
    if "--show_config" in flags:
        sys.stdout.write(_settings(options["model"], options["dataset"], files, rest))
        return 0
    if "--dry_run" in flags:
        return _dry_run(options, files, rest, as_json="--json" in flags)
    from recbole_think import summary
    from recbole_think.experiment import run

    with contextlib.redirect_stdout(sys.stderr):  # some models print; standard output is for results
        result = run(options["model"], options["dataset"], files, argv=rest, restart="--restart" in flags)
    if processes.number():
        return 0  # the first one tells
    if "--json" in flags:
        sys.stdout.write(json.dumps(result["metrics"], indent=2) + "\n")
    else:
        sys.stdout.write(summary.summary(result))
    return 0


def _dry_run(options: dict[str, str], files: list[str], rest: list[str], as_json: bool) -> int:
    from recbole_think.dry_run import describe, dry_run

    with contextlib.redirect_stdout(sys.stderr):
        found = dry_run(options["model"], options["dataset"], files, argv=rest)
    sys.stdout.write(json.dumps(found, indent=2) + "\n" if as_json else describe(found))
    return 0


def _key(word: str) -> str:
    return word.removeprefix("--").partition("=")[0]


def _single_words(words: list[str]) -> dict[str, str]:
    """Read ``--key=value`` words as text, refusing anything else before the heavy imports."""
    given: dict[str, str] = {}
    for number, word in enumerate(words):
        key, equals, value = word.removeprefix("--").partition("=")
        if not (word.startswith("--") and equals and key):
            after = words[number + 1] if number + 1 < len(words) else "<value>"
            hint = f"; did you mean {word}={after}?" if word.startswith("--") else ""
            raise InputError(f"write options as --key=value, got {word!r}{hint}")
        if key in given and given[key] != value:
            raise InputError(f"--{key} is given twice, as {given[key]!r} and {value!r}; give it once")
        given[key] = value
    return given


def _listing() -> str:
    from recbole_think.catalog import CATALOG, recbole_names, recipes
    from recbole_think.paths import properties_dir

    data_sets = sorted(path.stem for path in (properties_dir() / "dataset").glob("*.yaml"))
    return (
        f"models, tested here:\n  {', '.join(CATALOG)}\n"
        f"recipes, which are models with settings of their own:\n  {', '.join(recipes())}\n"
        f"RecBole's other models, looked up by name (docs/models.md says which run):\n  {', '.join(recbole_names())}\n"
        f"data sets with settings of their own (any folder of atomic files works):\n  {', '.join(data_sets)}\n"
    )


def _model_help(model: str | None) -> str:
    """The model's own YAML, comments and all: it is where options are explained."""
    if not model:
        return ""
    from recbole_think.catalog import family, lookup
    from recbole_think.paths import properties_dir

    lookup(model)
    base = family(model)
    path, recipe = (properties_dir() / "model" / f"{name}.yaml" for name in (base, model))
    if not path.is_file():
        return f"\n{model} is RecBole's; its options are those of RecBole's documentation.\n"
    found = f"\noptions of {base} and their defaults:\n\n{path.read_text(encoding='utf-8')}"
    return found if base == model else f"{found}\nin {model} these are:\n\n{recipe.read_text(encoding='utf-8')}"


def _settings(model: str, dataset: str, files: list[str], argv: list[str]) -> str:
    from recbole_think.config import ThinkConfig
    from recbole_think.layers import table

    with contextlib.redirect_stdout(sys.stderr):  # RecBole's models may print when they are imported
        rows = ThinkConfig(model, dataset, files, argv=argv).origins()
    return table(rows)


def _quiet() -> None:
    """Log to the terminal in one short form, and keep other libraries' chatter out of it."""

    from recbole_think.folder import Plain

    terminal = logging.StreamHandler(sys.stderr)
    kind = logging.Formatter if sys.stderr.isatty() else Plain
    terminal.setFormatter(kind("%(asctime)s  %(message)s", datefmt="%H:%M:%S"))
    logging.basicConfig(level=logging.WARNING if processes.number() else logging.INFO, handlers=[terminal])
    for name in ("httpx", "filelock", "sentence_transformers", "accelerate", "torch"):
        logging.getLogger(name).setLevel(logging.WARNING)
    quiet()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
