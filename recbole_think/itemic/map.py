"""A map of the catalogue for the report: item vectors in, two coordinates per item out.

Items whose vectors are alike lie close together; distances between far groups mean little (t-SNE keeps neighbourhoods).
Takes float32 [n, d], row r being item r + 1, and writes ``map.tsv``: RecBole's item id, title, category, x, y.
Knows nothing of codes.
"""

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from recbole_think.artifacts import write_whole
from recbole_think.corpus.items import ItemText
from recbole_think.itemic.stream import Streamed

MOST_ITEMS = 2000  # more would be seconds of work and points that hide one another
WIDTH = 50  # principal components that t-SNE is given, as its authors advise
NEIGHBOURS = 30  # t-SNE's perplexity
STEPS = 500  # enough for 2,000 items; the default of 1,000 takes twice as long and looks the same
ANGLE = 0.8  # coarser than the default of 0.5: a third less time, neighbourhoods kept as well (1,682 films: .97 both)
COLUMNS = ("item_id", "title", "category", "x", "y")


def write_map(path: Path, vectors: np.ndarray | Streamed, items: Sequence[ItemText], seed: int) -> None:
    """Write the map of a catalogue, or of ``MOST_ITEMS`` of its items drawn by ``seed``.

    Args:
        path: the file to write.
        vectors: float [n, d], what the codes are made of.
        items: one text per row.
        seed: of the draw and of the projection.
    """
    n = len(vectors)
    chosen = np.sort(np.random.default_rng(seed).choice(n, min(n, MOST_ITEMS), replace=False))
    places = projected(vectors[chosen], seed)
    rows = [
        (row + 1, items[row].title, items[row].category or "", f"{x:.3f}", f"{y:.3f}")
        for row, (x, y) in zip(chosen.tolist(), places.tolist(), strict=True)
    ]

    def fill(draft: Path) -> None:
        with draft.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, delimiter="\t", lineterminator="\n")
            writer.writerow(COLUMNS)
            writer.writerows(rows)

    write_whole(path, fill)


def read_map(path: Path) -> list[dict[str, str]]:
    """Read the rows of ``map.tsv`` back, by column."""
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def projected(vectors: np.ndarray, seed: int) -> np.ndarray:
    """Lay vectors out in the plane: principal components first, then t-SNE where there is something to lay out.

    Returns:
        float [n, 2].
    """
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    n = len(vectors)
    wide = np.pad(np.asarray(vectors, np.float64), ((0, 0), (0, max(0, 2 - vectors.shape[1]))))
    if not np.ptp(wide, axis=0).any():  # one item, or all alike
        return np.zeros((n, 2))
    parts = PCA(min(WIDTH, n, wide.shape[1]), random_state=seed).fit_transform(wide)
    distinct = len(np.unique(parts.round(6), axis=0))
    if distinct < 5:  # too few places for neighbourhoods
        return parts[:, :2]
    start = parts[:, :2] / parts[:, 0].std() * 1e-4  # as t-SNE's own init="pca", which would fit the components again
    perplexity = min(NEIGHBOURS, (n - 1) / 3)
    start = start.astype(np.float32)
    layout = TSNE(perplexity=perplexity, init=start, max_iter=STEPS, angle=ANGLE, random_state=seed)
    return layout.fit_transform(parts.astype(np.float32))
