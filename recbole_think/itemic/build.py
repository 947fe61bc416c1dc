"""From item texts and training histories to the code table: the itemic room on one page."""

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from recbole_think.corpus.histories import Histories
from recbole_think.corpus.items import ItemText
from recbole_think.itemic.codes import Codes
from recbole_think.itemic.embed import collaborative_vectors, file_vectors, joined, text_vectors
from recbole_think.itemic.options import ItemicOptions, shape
from recbole_think.itemic.quantize import residual_kmeans, resolved

log = logging.getLogger(__name__)


def build_codes(
    options: ItemicOptions, items: Sequence[ItemText], histories: Histories, cache: Path, seed: int
) -> tuple[Codes, np.ndarray, np.ndarray]:
    """Make the codes of a catalogue.

    Args:
        options: the ``itemic:`` block.
        items: one text per item.
        histories: training histories.
        cache: folder for text vectors.
        seed: of clustering.

    Returns:
        The codes, the table before collisions were treated (int64 [n, levels]), and the vectors (float32 [n, d]).
    """
    vectors = item_vectors(options, items, histories, cache, seed)
    levels, size = shape(options, len(items))
    quantizer = residual_kmeans(vectors, levels, size, seed)
    raw = quantizer.nearest(vectors)
    table = resolved(raw, vectors, quantizer, options.collisions)
    extra = tuple(int(table[:, level].max()) + 1 for level in range(levels, table.shape[1]))
    return Codes(table, (size,) * levels + extra), raw, vectors


def item_vectors(options: ItemicOptions, items, histories: Histories, cache: Path, seed: int) -> np.ndarray:
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
        parts.append(file_vectors(Path(file), len(items)))
        weights.append(options.vector_weights[number] if options.vector_weights else 1.0)
    return joined(parts, weights)
