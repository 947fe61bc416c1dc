import numpy as np
import pytest

from recbole_think.corpus.histories import from_pairs
from recbole_think.corpus.items import ItemText
from recbole_think.errors import InputError
from recbole_think.itemic import embed
from recbole_think.itemic.build import build_codes, item_vectors
from recbole_think.itemic.embed import collaborative_vectors, file_vectors, joined, text_vectors
from recbole_think.itemic.options import ItemicOptions


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def histories(*lists):
    users = np.repeat(np.arange(1, len(lists) + 1), [len(items) for items in lists])
    return from_pairs(users, np.concatenate([np.array(items) for items in lists]), len(lists) + 1)


def cosine(vectors):
    unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    return unit @ unit.T


def cliques(seed=0):
    """Items 1-4 are met together and items 5-8 are met together, never mixed; 9 and 10 are met by nobody."""
    dice = np.random.default_rng(seed)
    return histories(*(dice.permutation(group) for _ in range(30) for group in ([1, 2, 3, 4], [5, 6, 7, 8])))


def test_items_met_together_are_near_and_strangers_are_far():
    vectors = collaborative_vectors(cliques(), 10, 4, window=3, seed=0)
    assert vectors.shape == (10, 4) and vectors.dtype == np.float32
    near = cosine(vectors)
    within = [near[i, j] for group in (range(4), range(4, 8)) for i in group for j in group if i != j]
    across = [near[i, j] for i in range(4) for j in range(4, 8)]
    assert min(within) > max(across) + 0.2


def test_items_never_met_are_zero():
    vectors = collaborative_vectors(cliques(), 10, 4, window=3, seed=0)
    assert (vectors[8:] == 0).all() and (np.abs(vectors[:8]).sum(1) > 0).all()


def test_the_end_of_one_history_is_no_neighbour_of_the_start_of_the_next():
    near = cosine(collaborative_vectors(histories(*([[1, 2, 3], [4, 5, 6]] * 20)), 6, 5, window=1, seed=0))
    assert np.abs(near[:3, 3:]).max() < 1e-3
    assert near[0, 2] > 0.999 and near[3, 5] > 0.999, "those who share all their neighbours are alike"


def test_the_window_decides_who_is_a_neighbour():
    far_apart = histories(*([[1, 2, 3, 4, 5, 6]] * 10))
    narrow, wide = (collaborative_vectors(far_apart, 6, 5, window, seed=0) for window in (1, 5))
    assert not np.allclose(cosine(narrow), cosine(wide), atol=0.05)


def test_a_lone_visit_makes_no_neighbours_and_no_error():
    assert (collaborative_vectors(histories([1], [2], [3]), 3, 2, window=2, seed=0) == 0).all()


def test_the_vectors_depend_on_the_histories_given_and_on_nothing_else():
    one, again = (collaborative_vectors(cliques(), 10, 4, 3, seed=0) for _ in range(2))
    assert (one == again).all()


def test_the_model_makes_its_vectors_of_training_histories_alone(tmp_path):
    # the same training events with other validation and test events must give the same codes
    from recbole_think.config import ThinkConfig
    from recbole_think.corpus.histories import training_histories
    from recbole_think.experiment import prepare
    from recbole_think.model import OneRecThink
    from tests.toy import settings, walks, write_toy

    def made(name, world):
        folder = tmp_path / name
        write_toy(folder, world)
        (folder / "run").mkdir()
        config = ThinkConfig("OneRecThink", "toy", config_dict=settings("OneRecThink", folder, folder / "run"))
        config["cache_dir"], config["checkpoint_dir"] = str(folder / "cache"), str(folder / "run" / "checkpoints")
        data = prepare(config)
        model = OneRecThink(config, data.train.dataset)
        names = data.train.dataset.field2id_token["item_id"]
        assert training_histories(data.train.dataset).items.tolist() == model.histories.items.tolist()
        vectors = item_vectors(model.options["itemic"], model.items, model.histories, folder / "cache", 0)
        return {name: vectors[number] for number, name in enumerate(names[1:])}

    world = walks(20)
    everything = sorted({item for items in world.values() for item in items})
    dice = np.random.default_rng(0)
    other = {user: [*items[:-2], *dice.choice(everything, 2)] for user, items in world.items()}
    one, two = made("one", world), made("two", other)
    common = sorted(set(one) & set(two))
    assert len(common) > 20
    angles = [cosine(np.stack([vectors[name] for name in common])) for vectors in (one, two)]
    np.testing.assert_allclose(angles[0], angles[1], atol=1e-3)


def test_sources_stand_side_by_side_with_their_weights():
    one, two = np.array([[1.0, 0], [0, 1], [-1, -1]], np.float32), np.array([[5.0], [7], [9]], np.float32)
    table = joined([one, two], [2.0, 0.5])
    assert table.shape == (3, 3) and table.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(table[:, :2], axis=1), 2.0, rtol=1e-5)
    np.testing.assert_allclose(table[:, 2], [-0.5, 0, 0.5], atol=1e-6)


def test_a_source_of_weight_zero_is_left_out():
    one, two = np.eye(3, dtype=np.float32), np.full((3, 2), np.nan, np.float32)
    assert joined([one, two], [1.0, 0.0]).shape == (3, 3)


def test_rows_a_source_knows_nothing_of_stay_zero_and_do_not_move_its_centre():
    part = np.array([[2.0, 0], [0, 2], [0, 0]], np.float32)
    table = joined([part], [1.0])
    assert (table[2] == 0).all()
    np.testing.assert_allclose(table[0], -table[1], atol=1e-6)  # the centre is that of the two known rows
    assert np.isfinite(joined([np.zeros((3, 2), np.float32)], [1.0])).all()


def save(path, array, **how):
    np.save(path, array, **how)
    return path


def test_vectors_of_the_users_own_are_read_as_float32(tmp_path):
    given = np.arange(6, dtype=np.float64).reshape(3, 2)
    found = file_vectors(save(tmp_path / "own.npy", given), 3)
    assert found.dtype == np.float32 and (found == given).all()


def test_vectors_with_nan_are_refused_by_their_row(tmp_path):
    given = np.zeros((5, 2))
    given[3, 1] = np.nan
    with pytest.raises(InputError, match=r"own\.npy: row 3 holds NaN"):
        file_vectors(save(tmp_path / "own.npy", given), 5)


@pytest.mark.parametrize("shape", [(4, 2), (6, 2), (5,), (5, 2, 2)])
def test_vectors_of_another_shape_are_refused(shape, tmp_path):
    with pytest.raises(InputError, match=r"expected \(5, d\)"):
        file_vectors(save(tmp_path / "own.npy", np.zeros(shape)), 5)


def test_a_pickle_is_never_opened(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (open, (str(tmp_path / "boom"), "w"))

    path = save(tmp_path / "own.npy", np.array([Bomb(), Bomb()], dtype=object), allow_pickle=True)
    with pytest.raises(InputError, match=r"no plain \.npy array"):
        file_vectors(path, 2)
    assert not (tmp_path / "boom").exists()


def test_words_where_numbers_should_be_are_refused(tmp_path):
    with pytest.raises(InputError):
        file_vectors(save(tmp_path / "own.npy", np.array([["a", "b"], ["c", "d"]])), 2)


def test_a_file_that_is_missing_or_no_array_is_refused(tmp_path):
    with pytest.raises(InputError, match="no file"):
        file_vectors(tmp_path / "own.npy", 2)
    (tmp_path / "own.npy").write_text("hello")
    with pytest.raises(InputError, match=r"own\.npy"):
        file_vectors(tmp_path / "own.npy", 2)
    (tmp_path / "own.npy").write_bytes(b"")
    with pytest.raises(InputError, match=r"own\.npy"):
        file_vectors(tmp_path / "own.npy", 2)


def test_texts_are_encoded_once_and_then_come_from_the_cache(tmp_path, monkeypatch):
    asked = []

    def encode(texts, encoder):
        asked.append((tuple(texts), encoder))
        return np.full((len(texts), 2), float(len(asked)), np.float32)

    monkeypatch.setattr(embed, "encode", encode)
    first = text_vectors(["a", "b"], "packaged", tmp_path)
    again = text_vectors(["a", "b"], "packaged", tmp_path)
    assert len(asked) == 1 and (first == again).all()
    text_vectors(["b", "a"], "packaged", tmp_path)
    text_vectors(["a", "b"], "other", tmp_path)
    text_vectors(["a"], "packaged", tmp_path)
    assert len(asked) == 4, "other order, other encoder, other texts"


def test_a_damaged_cache_is_an_input_error_or_made_anew(tmp_path, monkeypatch):
    monkeypatch.setattr(embed, "encode", lambda texts, encoder: np.ones((len(texts), 2), np.float32))
    text_vectors(["a"], "packaged", tmp_path)
    [path] = (tmp_path / "text_vectors").iterdir()
    path.write_bytes(path.read_bytes()[:50])
    try:
        assert text_vectors(["a"], "packaged", tmp_path).tolist() == [[1, 1]]
    except InputError as why:
        assert path.name in str(why)


def test_an_unknown_encoder_is_an_input_error(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match=r"itemic\.encoder"):
        text_vectors(["a"], str(tmp_path / "nowhere"), tmp_path)


def test_codes_follow_what_the_options_weigh(tmp_path, monkeypatch):
    monkeypatch.setattr(embed, "encode", lambda *_: pytest.fail("text has no weight"))
    items = [ItemText(f"item {n}") for n in range(8)]
    world = histories(
        *(np.random.default_rng(n).permutation(g) for n in range(20) for g in ([1, 2, 3, 4], [5, 6, 7, 8]))
    )
    options = ItemicOptions(levels=2, size=4, text_weight=0.0, collaborative_size=4)
    codes, raw, *_ = build_codes(options, items, world, tmp_path, seed=0)
    assert codes.sizes == (4, 4) and raw.shape == (8, 2)
    assert len({tuple(row) for row in codes.table}) == 8

    own = save(tmp_path / "own.npy", np.repeat([[0.0, 1], [1, 0], [-1, 0], [0, -1]], 2, axis=0))
    options = ItemicOptions(
        levels=1, size=4, text_weight=0.0, collaborative_weight=0.0, vector_files=(str(own),), collisions="extra_level"
    )
    codes, raw, *_ = build_codes(options, items, world, tmp_path, seed=0)
    assert codes.sizes == (4, 2)
    assert (raw[0::2] == raw[1::2]).all() and len(set(raw[:, 0])) == 4
    assert codes.table[:, 1].tolist() == [0, 1] * 4


@pytest.mark.slow
def test_the_packaged_encoder_puts_like_texts_near(tmp_path):
    vectors = text_vectors(["a horror film", "a scary movie", "fresh apple juice"], "packaged", tmp_path)
    near = cosine(vectors)
    assert near[0, 1] > near[0, 2] + 0.1
