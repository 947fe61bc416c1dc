import numpy as np
import pytest

from recbole_think.corpus.items import ItemText
from recbole_think.itemic import map as item_map
from recbole_think.itemic.map import projected, read_map, write_map

TWO_CLUSTERS = np.concatenate([np.zeros((15, 6)), np.full((15, 6), 9.0)]) + np.random.default_rng(0).normal(
    0, 0.3, (30, 6)
)


def texts(n: int) -> list[ItemText]:
    return [ItemText(f'"Film" {row}, the', {"genre": f"kind {row % 2}"} if row else {}) for row in range(n)]


def test_items_of_one_cluster_are_neighbours_on_the_map():
    places = projected(TWO_CLUSTERS, seed=0)
    assert places.shape == (30, 2) and np.isfinite(places).all()
    away = np.linalg.norm(places[:, None] - places[None], axis=2)
    np.fill_diagonal(away, np.inf)
    assert ((away.argmin(1) < 15) == (np.arange(30) < 15)).all(), "the nearest item is of the same cluster"


def test_the_seed_decides_the_map():
    assert (projected(TWO_CLUSTERS, seed=3) == projected(TWO_CLUSTERS, seed=3)).all()


@pytest.mark.parametrize(
    "vectors",
    [
        np.ones((1, 3)), np.ones((9, 3)), np.eye(3), np.eye(4)[[0, 1, 2, 3] * 4],
        np.arange(12.0)[:, None], np.random.default_rng(0).normal(size=(5, 2)),
    ],
    ids=["one item", "all alike", "three items", "four places", "one dimension", "five items"],
)  # fmt: skip
def test_the_smallest_and_plainest_catalogues_have_a_map_too(vectors):
    places = projected(vectors, seed=0)
    assert places.shape == (len(vectors), 2) and np.isfinite(places).all()


def test_the_map_is_written_with_titles_as_they_are_and_read_back(tmp_path):
    write_map(tmp_path / "deep" / "map.tsv", TWO_CLUSTERS, texts(30), seed=0)
    rows = read_map(tmp_path / "deep" / "map.tsv")
    assert [row["item_id"] for row in rows] == [str(number) for number in range(1, 31)], "RecBole's ids begin at 1"
    assert [row["title"] for row in rows] == [item.title for item in texts(30)]
    assert [row["category"] for row in rows[:3]] == ["", "kind 1", "kind 0"]
    found = np.array([[float(row["x"]), float(row["y"])] for row in rows])
    assert found == pytest.approx(projected(TWO_CLUSTERS, seed=0), abs=6e-4)


def test_a_large_catalogue_is_sampled_by_seed(tmp_path, monkeypatch):
    monkeypatch.setattr(item_map, "MOST_ITEMS", 10)
    drawn = []
    for number, seed in enumerate((1, 1, 2)):
        write_map(tmp_path / str(number), TWO_CLUSTERS, texts(30), seed)
        rows = read_map(tmp_path / str(number))
        assert all(row["title"] == texts(30)[int(row["item_id"]) - 1].title for row in rows)
        drawn.append([int(row["item_id"]) for row in rows])
    assert drawn[0] == drawn[1] != drawn[2]
    assert len(set(drawn[0])) == 10 and drawn[0] == sorted(drawn[0])
