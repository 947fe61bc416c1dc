"""From item texts and training histories to the code table: the itemic room on one page."""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from recbole_think.corpus.histories import Histories
from recbole_think.corpus.items import ItemText
from recbole_think.errors import InputError
from recbole_think.itemic.codes import Codes, sizes_of
from recbole_think.itemic.collisions import resolved
from recbole_think.itemic.embed import collaborative_vectors, file_vectors, joined, text_vectors
from recbole_think.itemic.options import ItemicOptions, shape
from recbole_think.itemic.quantize import explained, residual_kmeans
from recbole_think.itemic.stream import OnDisk, Streamed, too_large

log = logging.getLogger(__name__)
Read = Callable[[Path, int], np.ndarray]  # a path and n to float32 [n, d]


class Built(NamedTuple):
    """Codes of a catalogue and what they were made of."""

    codes: Codes
    raw: np.ndarray  # int64 [n, levels], before collisions were treated
    figures: dict  # of the fit
    vectors: np.ndarray | Streamed | None = None  # float32 [n, d]; None for codes made elsewhere


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


def codes_of(options: ItemicOptions, vectors: np.ndarray | Streamed, seed: int) -> Built:
    """Make codes of item vectors, float32 [n, d]: the second half of ``build_codes``.

    The figures say the method and the share of the vectors' variance its codes keep, before and after collisions were
    treated; for ``rqvae`` also how many codes were revived; for vectors on disk how many items the codebooks were
    fitted on.

    Raises:
        InputError: ``rqvae`` of vectors that stay on disk.
    """
    levels, size = shape(options, len(vectors))
    if isinstance(vectors, Streamed):
        return _codes_of_streamed(options, vectors, levels, size, seed)
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
    return Built(Codes(table, sizes_of(table, levels, size)), raw, figures, vectors)


def _codes_of_streamed(options: ItemicOptions, vectors: Streamed, levels: int, size: int, seed: int) -> Built:
    from recbole_think.itemic.minibatch import minibatch_kmeans, named, renamed

    if options.method != "rqkmeans":
        raise InputError(
            f"itemic.method={options.method} needs all item vectors in memory, and itemic.vector_files are too large "
            f"for it; use rqkmeans"
        )
    sample = vectors.sample(seed)
    fitted_on = len(sample)
    quantizer = minibatch_kmeans(sample, levels, size, seed)
    del sample  # before other large arrays are made
    raw = named(vectors, quantizer)
    table = resolved(raw.codes, vectors, quantizer, options.collisions, raw.error)
    after = renamed(vectors, raw, table, quantizer)
    figures = {"method": options.method, "fitted_on": fitted_on}
    figures |= {"explained_before": raw.explained, "explained_after": after.explained}
    return Built(Codes(table, sizes_of(table, levels, size)), raw.codes, figures, vectors)


def item_vectors(
    options: ItemicOptions, items, histories: Histories, cache: Path, seed: int, read: Read = file_vectors
) -> np.ndarray | Streamed:
    """Join text, collaborative and the user's own vectors, files that are too large left on disk: float32 [n, d]."""
    parts: list = []
    weights: list[float] = []
    on_disk = too_large(options.vector_files)
    if options.text_weight > 0:
        log.info("reading %d item texts with the sentence encoder", len(items))
        parts.append(text_vectors([item.text for item in items], options.encoder, cache))
        weights.append(options.text_weight)
    if options.collaborative_weight > 0:
        size, window = options.collaborative_size, options.collaborative_window
        parts.append(collaborative_vectors(histories, len(items), size, window, seed))
        weights.append(options.collaborative_weight)
    for number, file in enumerate(options.vector_files):
        path, n = Path(file), len(items)
        parts.append(OnDisk(path, n) if on_disk and path.is_file() else read(path, n))
        weights.append(options.vector_weights[number] if options.vector_weights else 1.0)
    return Streamed(parts, weights) if on_disk else joined(parts, weights)
