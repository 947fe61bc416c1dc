"""Collisions: items that were named alike, told apart.

Takes int64 codes [n, L], of vectors that were quantized here (``resolved``) or made elsewhere (``without_collisions``).
Where many codes are compared each is packed into one number: ten million are 80 MB. n items, L levels, d columns.
"""

import itertools
from collections.abc import Sequence

import numpy as np

from recbole_think.errors import InputError
from recbole_think.itemic.codes import packed
from recbole_think.itemic.quantize import Quantizer
from recbole_think.itemic.stream import Streamed, rows_within


def resolved(
    codes: np.ndarray, vectors: np.ndarray | Streamed, quantizer: Quantizer, how: str, error: np.ndarray | None = None
) -> np.ndarray:
    """Return codes after treating collisions.

    Args:
        codes: int64 [n, L].
        vectors: float32 [n, d].
        quantizer: what made the codes.
        how: ``reassign`` (default: of the items that share a code the nearest keeps it, the others take the nearest
            free one), ``keep``, or ``extra_level`` (one more code that counts the items within a collision).
        error: squared distance of each vector to what its codes name, float32 [n], where it is known already.

    Returns:
        int64 [n, L], or [n, L + 1] for ``extra_level``.

    Raises:
        InputError: ``reassign`` with more items than codes.
    """
    if how == "keep":
        return codes
    if how == "extra_level":
        return _with_counter(codes)
    room = np.prod([float(len(centres)) for centres in quantizer.centres])
    if room < len(codes):
        raise InputError(
            f"{len(codes)} items cannot have distinct codes among {room:.0f}; raise itemic.levels or itemic.size"
        )
    if error is None:
        error = ((vectors - quantizer.rebuilt(codes)) ** 2).sum(1)
    return _reassigned(codes, vectors, quantizer, error)


class _Free:
    """Which codes are free, by their head: all codes of an item but the last."""

    def __init__(self, keys: np.ndarray, sizes: Sequence[int]):
        """``keys``: the packed codes that are taken from the start, sorted."""
        self.keys, self.sizes = keys, tuple(sizes)
        self.asked: dict[tuple[int, ...], np.ndarray] = {}

    def below(self, head: tuple[int, ...]) -> np.ndarray:
        """Last codes that are free, bool [size of the last level]; who takes one says so there."""
        free = self.asked.get(head)
        if free is None:
            free = self.asked[head] = self._looked_up(head)
        return free

    def _looked_up(self, head: tuple[int, ...]) -> np.ndarray:
        size, start = self.sizes[-1], 0
        for code, level_size in zip(head, self.sizes[:-1], strict=True):
            start = start * level_size + code
        start *= size
        begin, end = np.searchsorted(self.keys, np.array([start, start + size], self.keys.dtype))
        free = np.ones(size, dtype=bool)
        free[(self.keys[begin:end] - start).astype(np.int64)] = False
        return free


def _reassigned(
    codes: np.ndarray, vectors: np.ndarray | Streamed, quantizer: Quantizer, error: np.ndarray
) -> np.ndarray:
    sizes = [len(centres) for centres in quantizer.centres]
    order = np.argsort(error, kind="stable")
    keys, first = np.unique(packed(codes, sizes)[order], return_index=True)
    late = np.ones(len(codes), dtype=bool)
    late[first] = False
    waiting, free, result = order[late], _Free(keys, sizes), codes.copy()
    together = rows_within(vectors.shape[1])  # read from end to end once for as many as fit
    for begin in range(0, len(waiting), together):
        rows = waiting[begin : begin + together]
        for row, vector in zip(rows.tolist(), vectors[rows], strict=True):
            result[row] = _taken(quantizer, vector, free)
    return result


def _taken(quantizer: Quantizer, vector: np.ndarray, free: _Free) -> tuple[int, ...]:
    """Take the nearest free code."""
    last = len(quantizer.centres) - 1
    for head, rest in quantizer.heads_by_distance(vector):
        below = free.below(head)
        if below.any():  # asked first: where items crowd, most heads are full
            code = int(np.where(below, quantizer.distances(rest[None], last)[0], np.inf).argmin())
            below[code] = False
            return (*head, code)
    raise AssertionError("there are more codes than items")


def _with_counter(codes: np.ndarray) -> np.ndarray:
    """Append the position of each item among those that share its code."""
    _, group = np.unique(packed(codes), return_inverse=True)
    order = np.argsort(group, kind="stable")
    starts = np.concatenate([[0], np.cumsum(np.bincount(group))])
    counter = np.empty(len(codes), dtype=np.int64)
    counter[order] = np.arange(len(codes)) - starts[group[order]]
    return np.concatenate([codes, counter[:, None]], axis=1)


def without_collisions(table: np.ndarray, sizes: tuple[int, ...], how: str) -> tuple[np.ndarray, tuple[int, ...]]:
    """Treat collisions where no vectors are known, those of imported codes; ``how`` as for ``resolved``.

    ``reassign``: the first item of a code, in the order of the catalogue, keeps it; of every other the last code is
    counted up (from the largest on to 0) to the first free one, or the last two where that level is full, and so on.

    Returns:
        int64 [n, L], or [n, L + 1] for ``extra_level``, and its sizes.

    Raises:
        InputError: ``reassign`` with more items than codes.
    """
    if how == "keep":
        return table, sizes
    if how == "extra_level":
        counted = _with_counter(table)
        return counted, (*sizes, int(counted[:, -1].max()) + 1)
    if np.prod([float(size) for size in sizes]) < len(table):
        raise InputError(
            f"{len(table)} items cannot have distinct codes among {' x '.join(map(str, sizes))}; "
            f"set itemic.collisions=extra_level or keep"
        )
    taken, result = set(map(tuple, table.tolist())), table.copy()
    _, first = np.unique(packed(table, sizes), return_index=True)
    for row in np.setdiff1d(np.arange(len(table)), first):
        result[row] = _next_free(tuple(table[row].tolist()), sizes, taken)
        taken.add(tuple(result[row].tolist()))
    return result, sizes


def _next_free(code: tuple[int, ...], sizes: tuple[int, ...], taken: set[tuple[int, ...]]) -> tuple[int, ...]:
    for changed in range(1, len(code) + 1):
        head, tail = code[:-changed], code[-changed:]
        turns = [[(start + step) % size for step in range(size)]
                 for start, size in zip(tail, sizes[-changed:], strict=True)]  # fmt: skip
        for ending in itertools.product(*turns):
            if head + ending not in taken:
                return head + ending
    raise AssertionError("there are more codes than items")
