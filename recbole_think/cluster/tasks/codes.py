"""Codes of the rows of a large .npy file, as a run makes them of one: ranges named by centres that were fitted once.

The file stays on disk. It is read three times when the job is planned (its mean, a sample, and a digest of each range,
which the worker that reads the range compares), each range twice by its worker, and for what collides once when all is
joined. The result is what ``itemic.codes_file`` takes. n rows of d numbers, L levels.
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
from recbole_think.itemic.codes import Codes, sizes_of
from recbole_think.itemic.collisions import resolved
from recbole_think.itemic.minibatch import left_over, minibatch_kmeans
from recbole_think.itemic.options import COLLISIONS
from recbole_think.itemic.quantize import Quantizer
from recbole_think.itemic.stream import OnDisk, Streamed
from recbole_think.options import check

NAME = "codes.safetensors"
CENTRES, ROWS = "centres.safetensors", "rows.json"  # in the job folder
MEAN = "mean"  # of the file, among the centres


@dataclass(frozen=True)
class CodesOptions:
    """Options of task ``codes``."""

    vectors: str = ""  # .npy of item vectors, [n, d]
    levels: int = 3
    size: int = 256  # codes of a level
    sample: int = 0  # rows the centres are fitted to; 0 = as many as fit 1.5 GiB, which is the most
    seed: int = 2020
    collisions: str = "reassign"  # as itemic.collisions
    rows: int = 65_536  # of a shard
    threads: int = 1

    def __post_init__(self):
        check(bool(self.vectors), "--vectors=<.npy> is missing")
        for name in ("levels", "size", "rows", "threads"):
            check(getattr(self, name) >= 1, f"--{name} must be at least 1, got {getattr(self, name)}")
        check(self.sample >= 0, f"--sample must not be negative, got {self.sample}")
        check(self.collisions in COLLISIONS, f"--collisions must be one of {COLLISIONS}, got {self.collisions!r}")


class CodesOfRows:
    """Codes of every row of a file."""

    OPTIONS: ClassVar = CodesOptions

    def __init__(self, options: CodesOptions, folder: Path | None):
        self.options = options
        torch.set_num_threads(options.threads)
        threadpool_limits(options.threads)
        check(Path(options.vectors).is_file(), f"--vectors: no file {options.vectors}")
        self.file = OnDisk(Path(options.vectors))
        self.count = self.file.shape[0]
        check(
            options.collisions != "reassign" or options.size**options.levels >= self.count,
            f"--levels={options.levels} of --size={options.size} codes cannot name {self.count} rows apart: raise one, "
            f"or take another --collisions than reassign",
        )
        self.shards = -(-self.count // options.rows)
        if folder is None:
            self._digests = [_digest(self._rows(shard)) for shard in range(self.shards)]
        else:
            self._digests = read_json(folder / ROWS)["digests"]
            self._quantizer, mean = _read_centres(folder / CENTRES)
            self.vectors = Streamed([self.file], [1.0], [mean])

    def _range(self, shard: int) -> slice:
        return slice(shard * self.options.rows, min((shard + 1) * self.options.rows, self.count))

    def _rows(self, shard: int) -> np.ndarray:
        """float32 [rows, d], as they are in the file."""
        return self.file[self._range(shard)]

    def made_from(self) -> dict[str, Any]:
        """What codes depend on besides the options."""
        return {"shape": list(self.file.shape), "rows": digest(self._digests, 16)}

    def prepare(self, folder: Path) -> None:
        """Fit the centres to a sample of the rows, and keep the digests of all."""
        options, vectors = self.options, Streamed([self.file], [1.0])
        fitted = minibatch_kmeans(
            vectors.sample(options.seed, options.sample), options.levels, options.size, options.seed
        )
        kept = {str(level): torch.from_numpy(of_level) for level, of_level in enumerate(fitted.centres)}
        save_tensors(folder / CENTRES, {**kept, MEAN: torch.from_numpy(vectors.centres[0])})
        write_json(folder / ROWS, {"digests": self._digests})

    def use(self, engine: Mapping[str, Any]) -> None:
        """Refuse an engine: there is none."""
        check(not engine, "--engine: codes are named without one")

    def compute(self, shard: int) -> dict[str, torch.Tensor]:
        """Name the rows of a shard: codes int64 [rows, L], and the squared distance of each to what they name."""
        rows = self._range(shard)
        if _digest(self._rows(shard)) != self._digests[shard]:
            raise InputError(f"rows {rows.start} to {rows.stop} of {self.options.vectors} are not those of the plan")
        vectors = self.vectors[rows]
        codes = self._quantizer.nearest(vectors)
        error = left_over(vectors, codes, self._quantizer)
        return {"codes": torch.from_numpy(codes), "error": torch.from_numpy(error)}

    def write(self, made: dict[str, torch.Tensor], folder: Path) -> None:
        """Write what was named."""
        save_tensors(folder / NAME, made)

    def join(self, results: list[Path], folder: Path) -> None:
        """Write the code table of all rows, in the order of the file, its collisions treated as a run treats them."""
        parts, options = [load_tensors(path / NAME) for path in results], self.options
        codes, error = (torch.cat([part[name] for part in parts]).numpy() for name in ("codes", "error"))
        table = resolved(codes, self.vectors, self._quantizer, options.collisions, error)
        Codes(table, sizes_of(table, options.levels, options.size)).save(folder / NAME)


def _read_centres(path: Path) -> tuple[Quantizer, np.ndarray]:
    found = load_tensors(path)
    mean = found.pop(MEAN).numpy()
    return Quantizer([found[str(level)].numpy() for level in range(len(found))]), mean


def _digest(rows: np.ndarray) -> str:
    return hashlib.sha256(rows.tobytes()).hexdigest()[:16]
