"""From item texts and training histories to the code table: the itemic room on one page."""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from recbole_think.corpus.histories import Histories
from recbole_think.corpus.items import ItemText
from recbole_think.itemic.codes import Codes
from recbole_think.itemic.embed import collaborative_vectors, file_vectors, joined, text_vectors
from recbole_think.itemic.options import ItemicOptions, shape
from recbole_think.itemic.quantize import explained, residual_kmeans, resolved

log = logging.getLogger(__name__)
Read = Callable[[Path, int], np.ndarray]  # a path and n to float32 [n, d]


class Built(NamedTuple):
    """Codes of a catalogue and what they were made of."""

    codes: Codes
    raw: np.ndarray  # int64 [n, levels], before collisions were treated
    figures: dict  # of the fit
    vectors: np.ndarray | None = None  # float32 [n, d]; None for codes made elsewhere


def build_codes(
    options: ItemicOptions, items: Sequence[ItemText], histories: Histories, cache: Path, seed: int,
    read: Read = file_vectors,
) -> Built:  # fmt: skip
    """Make the codes of a catalogue.

    Args:
        options: the ``itemic:`` block.
        items: one text per item.
        histories: training histories.
        cache: folder for text vectors.
        seed: of what makes codes.
        read: what reads ``vector_files``.

    Returns:
        The codes and what they were made of.
    """
    return codes_of(options, item_vectors(options, items, histories, cache, seed, read), seed)


def codes_of(options: ItemicOptions, vectors: np.ndarray, seed: int) -> Built:
    """Make codes of item vectors, float32 [n, d]: the second half of ``build_codes``.

    The figures say the method and the share of the vectors' variance its codes keep, before and after collisions were
    treated; for ``rqvae`` also how many codes were revived.
    """
    levels, size = shape(options, len(vectors))
    if options.method == "rqvae":
        from recbole_think.itemic.rqvae import fit_rqvae

        encoded = fit_rqvae(vectors, levels, size, options, seed)
        points, quantizer, decode = encoded.latents, encoded.quantizer, encoded.decode
        figures: dict = {"method": "rqvae", "revivals": encoded.revivals}
    else:
        points, quantizer, decode = vectors, residual_kmeans(vectors, levels, size, seed), np.asarray
        figures = {"method": "rqkmeans"}
    raw = quantizer.nearest(points)
    table = resolved(raw, points, quantizer, options.collisions)
    figures["explained_before"] = explained(vectors, decode(quantizer.rebuilt(raw)))
    figures["explained_after"] = explained(vectors, decode(quantizer.rebuilt(table)))
    extra = tuple(int(table[:, level].max()) + 1 for level in range(levels, table.shape[1]))
    return Built(Codes(table, (size,) * levels + extra), raw, figures, vectors)


def item_vectors(
    options: ItemicOptions, items, histories: Histories, cache: Path, seed: int, read: Read = file_vectors
) -> np.ndarray:
    """Join text, collaborative and the user's own vectors: float32 [n, d]."""
    parts, weights = [], []
    if options.text_weight > 0:
        log.info("reading %d item texts with the sentence encoder", len(items))
        parts.append(text_vectors([item.text for item in items], options.encoder, cache))
        weights.append(options.text_weight)
    if options.collaborative_weight > 0:
        size, window = options.collaborative_size, options.collaborative_window
        parts.append(collaborative_vectors(histories, len(items), size, window, seed))
        weights.append(options.collaborative_weight)
    for number, file in enumerate(options.vector_files):
        parts.append(read(Path(file), len(items)))
        weights.append(options.vector_weights[number] if options.vector_weights else 1.0)
    return joined(parts, weights)
