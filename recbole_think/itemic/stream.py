"""Item vectors too large for memory: files stay on disk, rows are read when they are asked for.

Gives float32 rows, sources side by side as ``embed.joined`` puts them. Knows nothing of codes. n items, d columns.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from recbole_think.itemic.embed import checked, opened, weighted

MOST_BYTES = 3 * 2**29  # 1.5 GiB; vector files of more than this in all stay on disk
CHUNK = 32_768  # rows read together: 48 MiB of 384 columns

Rows = slice | np.ndarray  # a run of rows, or int64 places


def too_large(files: Sequence[str]) -> bool:
    """Whether vector files would fill memory; run folders do not count."""
    return sum(path.stat().st_size for path in map(Path, files) if path.is_file()) > MOST_BYTES


def rows_within(d: int) -> int:
    """How many rows of ``d`` columns may be in memory together."""
    return max(1, MOST_BYTES // (4 * d))


class OnDisk:
    """One ``.npy`` file of item vectors."""

    def __init__(self, path: Path, n: int | None = None):
        """Look at the file's header; ``n`` is how many rows it must have, if that is known.

        Raises:
            InputError: as ``embed.file_vectors``, except that values are checked when they are read.
        """
        self.path = path
        self.shape = opened(path, n, mapped=True).shape

    def __getitem__(self, rows: Rows) -> np.ndarray:
        """Read rows, float32; those of a slice are read one after the other.

        Raises:
            InputError: values that are not finite.
        """
        # mapped anew every time: pages that were read count as memory of the process until the mapping is gone
        return checked(opened(self.path, self.shape[0], mapped=True)[rows], self.path, rows)


class Streamed:
    """Sources side by side, each centred, with rows of unit length, times its weight."""

    def __init__(
        self, sources: Sequence[np.ndarray | OnDisk], weights: Sequence[float],
        centres: Sequence[np.ndarray] | None = None,
    ):  # fmt: skip
        """Join sources, float32 [n, d_i] each; those of weight 0 are left out.

        Args:
            sources: in memory or on disk.
            weights: one each.
            centres: of those kept, float32 [d_i] each; None = read everything once to know them.
        """
        kept = [(source, weight) for source, weight in zip(sources, weights, strict=True) if weight]
        self.sources, self.weights = [source for source, _ in kept], [weight for _, weight in kept]
        self.shape = (sources[0].shape[0], sum(source.shape[1] for source in self.sources))
        self.centres = list(centres) if centres else [self._centre(source) for source in self.sources]

    def __len__(self) -> int:
        """n."""
        return self.shape[0]

    def __getitem__(self, rows: Rows) -> np.ndarray:
        """Read some rows, those of an array in the order of the files: float32 [m, d], in the order asked for."""
        if isinstance(rows, slice):
            return self._read(rows)
        order = np.argsort(rows, kind="stable")
        rising, found = rows[order], np.empty((len(rows), self.shape[1]), np.float32)
        for chunk in self.chunks():
            begin, end = np.searchsorted(rising, (chunk.start, chunk.stop))
            if begin < end:
                found[order[begin:end]] = self._read(rising[begin:end])
        return found

    def _read(self, rows: Rows) -> np.ndarray:
        parts = zip(self.sources, self.centres, self.weights, strict=True)
        return np.concatenate([weighted(source[rows], centre, weight) for source, centre, weight in parts], axis=1)

    def chunks(self) -> Iterator[slice]:
        """Rows to be read together, in order."""
        for begin in range(0, len(self), CHUNK):
            yield slice(begin, min(begin + CHUNK, len(self)))

    def sample(self, seed: int, most: int = 0) -> np.ndarray:
        """Read rows drawn without repetition, as many as fit ``MOST_BYTES`` or ``most``: float32 [m, d]."""
        count = min(most or len(self), rows_within(self.shape[1]))
        return self[np.sort(np.random.default_rng(seed).permutation(len(self))[:count])]

    def _centre(self, source: np.ndarray | OnDisk) -> np.ndarray:
        """Mean of the rows that a source knows something of: float32 [d_i]."""
        total, count = np.zeros(source.shape[1]), 0
        for rows in self.chunks():
            part = source[rows]
            total += part.sum(0, dtype=np.float64)  # rows of zeros add nothing
            count += int(part.any(1).sum())
        return (total / max(count, 1)).astype(np.float32)
