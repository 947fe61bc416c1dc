"""Codes of the rows of a large .npy file: ranges of it named by centres that were fitted once, on a sample.

The file stays on disk and is read whole but once, when the job is planned: each range's digest is taken then, and
compared by the worker that reads it. n rows of d numbers, L levels.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from recbole_think.artifacts import digest, load_tensors, read_json, save_tensors, write_json
from recbole_think.errors import InputError
from recbole_think.itemic.codes import Codes
from recbole_think.itemic.collisions import without_collisions
from recbole_think.itemic.minibatch import minibatch_kmeans
from recbole_think.itemic.quantize import Quantizer
from recbole_think.itemic.stream import OnDisk, rows_within
from recbole_think.options import check

NAME = "codes.safetensors"
CENTRES, ROWS = "centres.safetensors", "rows.json"  # in the job folder
COLLISIONS = ("keep", "extra_level", "reassign")


@dataclass(frozen=True)
class CodesOptions:
    """Options of task ``codes``."""

    vectors: str = ""  # .npy of item vectors, [n, d]
    levels: int = 3
    size: int = 256  # codes of a level
    sample: int = 100_000  # rows the centres are fitted to, no more than fit 1.5 GiB
    seed: int = 2020
    collisions: str = "extra_level"  # as itemic.collisions where no vectors are known
    rows: int = 65_536  # of a shard
    threads: int = 1

    def __post_init__(self):
        check(bool(self.vectors), "--vectors=<.npy> is missing")
        for name in ("levels", "size", "sample", "rows", "threads"):
            check(getattr(self, name) >= 1, f"--{name} must be at least 1, got {getattr(self, name)}")
        check(self.collisions in COLLISIONS, f"--collisions must be one of {COLLISIONS}, got {self.collisions!r}")


class CodesOfRows:
    """Codes of every row of a file."""

    OPTIONS: ClassVar = CodesOptions

    def __init__(self, options: CodesOptions, folder: Path | None):
        self.options = options
        torch.set_num_threads(options.threads)
        threadpool_limits(options.threads)
        check(Path(options.vectors).is_file(), f"--vectors: no file {options.vectors}")
        self.vectors = OnDisk(Path(options.vectors))
        self.count = self.vectors.shape[0]
        self.shards = -(-self.count // options.rows)
        if folder is None:
            self._digests = [_digest(self._rows(shard)) for shard in range(self.shards)]
        else:
            self._digests = read_json(folder / ROWS)["digests"]
            self._quantizer = _read_centres(folder / CENTRES)

    def _rows(self, shard: int) -> np.ndarray:
        """float32 [rows, d]."""
        return self.vectors[slice(shard * self.options.rows, (shard + 1) * self.options.rows)]

    def made_from(self) -> dict[str, Any]:
        """What codes depend on besides the options."""
        return {"shape": list(self.vectors.shape), "rows": digest(self._digests, 16)}

    def prepare(self, folder: Path) -> None:
        """Fit the centres to a sample of the rows, and keep the digests of all."""
        options, most = self.options, min(self.options.sample, self.count, rows_within(self.vectors.shape[1]))
        chosen = np.sort(np.random.default_rng(options.seed).choice(self.count, most, replace=False, shuffle=False))
        fitted = minibatch_kmeans(self.vectors[chosen], options.levels, options.size, options.seed)
        centres = {str(level): torch.from_numpy(of_level) for level, of_level in enumerate(fitted.centres)}
        save_tensors(folder / CENTRES, centres)
        write_json(folder / ROWS, {"digests": self._digests})

    def use(self, engine: Mapping[str, Any]) -> None:
        """Refuse an engine: there is none."""
        check(not engine, "--engine: codes are named without one")

    def compute(self, shard: int) -> np.ndarray:
        """Name the rows of a shard: int64 [rows, L]."""
        rows, first = self._rows(shard), shard * self.options.rows
        if _digest(rows) != self._digests[shard]:
            raise InputError(f"rows {first} to {first + len(rows)} of {self.options.vectors} are not those of the plan")
        return self._quantizer.nearest(rows)

    def write(self, made: np.ndarray, folder: Path) -> None:
        """Write the codes."""
        save_tensors(folder / NAME, {"codes": torch.from_numpy(made)})

    def join(self, results: list[Path], folder: Path) -> None:
        """Write the code table of all rows, in the order of the file, its collisions treated."""
        named = np.concatenate([load_tensors(path / NAME)["codes"].numpy() for path in results])
        sizes = (self.options.size,) * self.options.levels
        Codes(*without_collisions(named, sizes, self.options.collisions)).save(folder / NAME)


def _read_centres(path: Path) -> Quantizer:
    found = load_tensors(path)
    return Quantizer([found[str(level)].numpy() for level in range(len(found))])


def _digest(rows: np.ndarray) -> str:
    return hashlib.sha256(rows.tobytes()).hexdigest()[:16]
