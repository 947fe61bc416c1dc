"""Residual k-means three ways on the same sample: ours by mini-batches, by faiss, and by the semantic-id package.

Each takes float32 [m, d] and gives the centres of every level, so that all are judged by one function. faiss
(faiss-cpu 1.15.1) and semantic-id (0.2.5) are no dependencies of the package: pip install them for this benchmark.
m rows of the sample, d columns, L levels.
"""

import numpy as np

from recbole_think.itemic.minibatch import minibatch_kmeans

CHUNK = 32_768  # rows


def ours(sample: np.ndarray, levels: int, size: int, iterations: int, seed: int) -> list[np.ndarray]:
    """The package's own, which has iterations of its own; the sample is left alone."""
    return minibatch_kmeans(sample.copy(), levels, size, seed).centres


def faiss(sample: np.ndarray, levels: int, size: int, iterations: int, seed: int) -> list[np.ndarray]:
    """faiss.Kmeans on the whole sample (by itself it would take 256 rows a centre), then on its residuals."""
    import faiss as library
    import torch

    library.omp_set_num_threads(torch.get_num_threads())
    rest, centres = sample.copy(), []
    for level in range(levels):
        fitted = library.Kmeans(
            rest.shape[1], size, niter=iterations, seed=seed + level, max_points_per_centroid=len(rest)
        )
        fitted.train(rest)
        centres.append(fitted.centroids)
        for rows in chunks(len(rest)):
            rest[rows] -= fitted.centroids[fitted.index.search(rest[rows], 1)[1][:, 0]]
    return centres


def semantic_id(sample: np.ndarray, levels: int, size: int, iterations: int, seed: int) -> list[np.ndarray]:
    """RQKMeans as its README has it, but one start instead of ten, and as many iterations as faiss instead of 100."""
    from semantic_id import RQKMeans

    fitted = RQKMeans(n_levels=levels, n_clusters=size, max_iter=iterations, n_init=1, random_state=seed).fit(sample)
    return fitted.codebooks_


def errors(sample: np.ndarray, centres: list[np.ndarray]) -> list[float]:
    """Total squared distance of the sample to what is named, after each level."""
    sums = np.zeros(len(centres))
    for rows in chunks(len(sample)):
        rest = sample[rows]
        for level, of_level in enumerate(centres):
            code = ((of_level**2).sum(1)[None] - 2 * rest @ of_level.T).argmin(1)
            rest = rest - of_level[code]
            sums[level] += (rest**2).sum(dtype=np.float64)
    return sums.tolist()


def chunks(n: int) -> list[slice]:
    """Rows to be taken together."""
    return [slice(begin, min(begin + CHUNK, n)) for begin in range(0, n, CHUNK)]
