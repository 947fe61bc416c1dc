"""A synthetic catalogue of any size: item vectors streamed to a ``.npy`` file, in memory a chunk at a time.

Vectors are like those of texts: kinds of items, of which few are common (Zipf) and most are rare; families within each
kind; and every item a little beside its family. The variance of direction k falls like 1 / k, on all three.
"""

from pathlib import Path

import numpy as np

from recbole_think.artifacts import write_whole

KINDS, FAMILIES = 2_000, 50  # families of each kind
SPREADS = (1.0, 0.7, 0.5)  # of kinds around nothing, of families around their kind, of items around their family
CHUNK = 100_000  # items


def write_catalogue(path: Path, n: int, d: int, seed: int = 0) -> None:
    """Write float32 [n, d]; the first m items of a seed are the same whatever n is."""
    dice = np.random.default_rng(seed)
    scale = (np.arange(1, d + 1) ** -0.5).astype(np.float32)
    kinds, families = (
        spread * scale * dice.standard_normal((rows, d), np.float32)
        for spread, rows in zip(SPREADS, (KINDS, KINDS * FAMILIES), strict=False)
    )
    families += kinds.repeat(FAMILIES, axis=0)
    weight = 1 / np.arange(1, KINDS + 1)

    def fill(draft: Path) -> None:
        header = {"descr": np.dtype(np.float32).str, "fortran_order": False, "shape": (n, d)}
        with draft.open("wb") as file:
            np.lib.format.write_array_header_1_0(file, header)
            for begin in range(0, n, CHUNK):
                kind = dice.choice(KINDS, CHUNK, p=weight / weight.sum())
                family = kind * FAMILIES + dice.integers(FAMILIES, size=CHUNK)
                items = families[family] + SPREADS[2] * scale * dice.standard_normal((CHUNK, d), np.float32)
                items[: n - begin].tofile(file)

    write_whole(path, fill)
