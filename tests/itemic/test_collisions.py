import numpy as np
import pytest

from recbole_think.errors import InputError
from recbole_think.itemic.collisions import resolved
from recbole_think.itemic.quantize import Quantizer, residual_kmeans


def crowd():
    """A quantizer of 3 x 3 known codes, and items of which several want the same one."""
    quantizer = Quantizer([np.array([[0.0], [10], [20]], np.float32), np.array([[-2.0], [0], [2]], np.float32)])
    vectors = np.array([[0.3], [0.0], [-0.2], [0.9], [10.0], [20.4], [20.1]], np.float32)
    return quantizer, vectors, quantizer.nearest(vectors)


def test_reassigning_leaves_no_collision_moves_as_few_as_needed_and_the_nearest_stays():
    quantizer, vectors, codes = crowd()
    assert codes.tolist() == [[0, 1]] * 4 + [[1, 1], [2, 1], [2, 1]]
    table = resolved(codes, vectors, quantizer, "reassign")
    assert len({tuple(row) for row in table}) == len(table)
    assert (table != codes).any(1).sum() == len(codes) - len({tuple(row) for row in codes}) == 4
    assert table[[1, 4, 6]].tolist() == [[0, 1], [1, 1], [2, 1]], "the nearest of each crowd keeps its code"
    assert table[2].tolist() == [0, 0], "the next takes the nearest free code"
    assert table[0].tolist() == [0, 2]
    assert table[5].tolist() == [2, 2]
    assert codes.tolist()[0] == [0, 1], "the table given is left alone"


@pytest.mark.parametrize("seed", range(5))
def test_reassigning_random_crowds_moves_exactly_the_surplus(seed):
    dice = np.random.default_rng(seed)
    vectors = dice.normal(size=(60, 3)).astype(np.float32)
    quantizer = residual_kmeans(vectors, 2, 8, seed=0)  # 64 codes for 60 items
    codes = quantizer.nearest(vectors)
    table = resolved(codes, vectors, quantizer, "reassign")
    assert len({tuple(row) for row in table}) == 60
    assert (table != codes).any(1).sum() == 60 - len({tuple(row) for row in codes})
    assert table.min() >= 0 and table.max() < 8
    error = ((vectors - quantizer.rebuilt(codes)) ** 2).sum(1)
    for code in {tuple(row) for row in codes}:
        crowd_rows = np.flatnonzero((codes == code).all(1))
        assert tuple(table[crowd_rows[error[crowd_rows].argmin()]]) == code


def test_items_that_are_all_alike_fill_every_code_there_is():
    quantizer, _, _ = crowd()
    vectors = np.zeros((9, 1), np.float32)
    table = resolved(quantizer.nearest(vectors), vectors, quantizer, "reassign")
    assert {tuple(row) for row in table} == {(a, b) for a in range(3) for b in range(3)}


def test_more_items_than_codes_cannot_be_told_apart():
    quantizer, _, _ = crowd()
    vectors = np.zeros((10, 1), np.float32)
    with pytest.raises(InputError, match=r"10 items .* 9; raise itemic\.levels or itemic\.size"):
        resolved(quantizer.nearest(vectors), vectors, quantizer, "reassign")


def test_an_extra_level_counts_the_items_of_a_crowd():
    quantizer, vectors, codes = crowd()
    table = resolved(codes, vectors, quantizer, "extra_level")
    assert table[:, :2].tolist() == codes.tolist()
    assert table[:, 2].tolist() == [0, 1, 2, 3, 0, 0, 1]
    assert table.dtype == np.int64


def test_keeping_collisions_changes_nothing():
    quantizer, vectors, codes = crowd()
    assert resolved(codes, vectors, quantizer, "keep").tolist() == codes.tolist()


def every_code_by_distance(quantizer, vector, level=0):
    if level == len(quantizer.centres):
        yield ()
        return
    centres = quantizer.centres[level]
    distances = (centres**2).sum(1)[None] - 2 * vector[None] @ centres.T
    for code in distances[0].argsort(kind="stable"):
        for rest in every_code_by_distance(quantizer, vector - centres[code], level + 1):
            yield (int(code), *rest)


def reassigned_one_by_one(codes, vectors, quantizer):
    """What reassigning means, item by item: the nearest of each crowd stays, the others take turns, nearest first."""
    error = ((vectors - quantizer.rebuilt(codes)) ** 2).sum(1)
    taken, waiting, result = set(), [], codes.copy()
    for row in np.argsort(error, kind="stable"):
        code = tuple(codes[row].tolist())
        waiting.extend([row] if code in taken else [])
        taken.add(code)
    for row in waiting:
        result[row] = next(code for code in every_code_by_distance(quantizer, vectors[row]) if code not in taken)
        taken.add(tuple(result[row].tolist()))
    return result


@pytest.mark.parametrize(
    ("items", "sizes"), [(60, (8, 8)), (400, (8, 8, 8)), (500, (512,)), (64, (8, 8)), (300, (3, 7, 16))], ids=str
)
@pytest.mark.parametrize("seed", range(3))
def test_reassigning_is_the_same_as_item_by_item(items, sizes, seed):
    dice = np.random.default_rng(seed)
    quantizer = Quantizer([dice.normal(size=(size, 5)).astype(np.float32) for size in sizes])
    vectors = dice.normal(size=(items, 5)).astype(np.float32)
    vectors[: items // 4] = vectors[0]  # a crowd larger than one head has codes
    codes = quantizer.nearest(vectors)
    assert (resolved(codes, vectors, quantizer, "reassign") == reassigned_one_by_one(codes, vectors, quantizer)).all()


def test_codes_of_more_levels_than_a_number_has_bits_for_are_told_apart_all_the_same():
    dice = np.random.default_rng(0)
    quantizer = Quantizer([dice.normal(size=(64, 3)).astype(np.float32) for _ in range(26)])
    vectors = dice.normal(size=(40, 3)).astype(np.float32)
    vectors[:12] = vectors[0]
    codes = quantizer.nearest(vectors)
    table = resolved(codes, vectors, quantizer, "reassign")
    assert (table == reassigned_one_by_one(codes, vectors, quantizer)).all()
    assert len({tuple(row) for row in table}) == 40 and (table != codes).any(1).sum() == 11


def test_reassigning_reads_no_more_rows_together_than_may_be_in_memory(monkeypatch):
    monkeypatch.setattr("recbole_think.itemic.stream.MOST_BYTES", 3 * 4 * 5)
    quantizer = Quantizer([np.random.default_rng(1).normal(size=(8, 5)).astype(np.float32) for _ in range(2)])
    vectors = np.zeros((30, 5), np.float32)
    asked = []

    class Watched(np.ndarray):
        def __getitem__(self, rows):
            if isinstance(rows, np.ndarray):
                asked.append(len(rows))
            return super().__getitem__(rows)

    codes = quantizer.nearest(vectors)
    table = resolved(codes, vectors.view(Watched), quantizer, "reassign", np.zeros(30, np.float32))
    assert max(asked) == 3 and sum(asked) == 29
    assert (table == reassigned_one_by_one(codes, vectors, quantizer)).all()


def test_all_codes_but_the_last_come_nearest_first_and_every_one_once_with_what_they_leave_over():
    quantizer, _, _ = crowd()
    heads, rests = zip(*quantizer.heads_by_distance(np.array([9.0], np.float32)), strict=True)
    assert heads == ((1,), (0,), (2,)) and [float(rest[0]) for rest in rests] == [-1, 9, -11]
