from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from recbole_think.errors import InputError
from recbole_think.itemic import rqvae
from recbole_think.itemic.build import codes_of
from recbole_think.itemic.options import ItemicOptions
from recbole_think.itemic.quantize import explained
from recbole_think.itemic.rqvae import AutoEncoder, fit_rqvae, revive

QUICK = ItemicOptions(
    method="rqvae", levels=2, size=4, rqvae_epochs=60, rqvae_latent=4, rqvae_hidden=16, rqvae_batch=32
)


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def clusters(n=80, kinds=4, seed=0):
    """Items of a few kinds that lie far apart, with a breath of noise."""
    dice = np.random.default_rng(seed)
    kind = np.arange(n) % kinds
    return (10 * np.eye(kinds, 12)[kind] + dice.normal(0, 0.1, (n, 12))).astype(np.float32), kind


def test_kinds_that_lie_far_apart_get_first_codes_of_their_own():
    vectors, kind = clusters()
    encoded = fit_rqvae(vectors, 2, 4, QUICK, seed=0)
    codes = encoded.quantizer.nearest(encoded.latents)
    assert codes.shape == (80, 2) and encoded.latents.shape == (80, 4)
    pairs = set(zip(codes[:, 0].tolist(), kind.tolist(), strict=True))
    assert len(pairs) == len({code for code, _ in pairs}) == 4


def test_what_is_decoded_is_near_what_was_encoded_in_the_units_of_the_vectors():
    vectors, _ = clusters()
    vectors = 1000 * vectors + 7
    encoded = fit_rqvae(vectors, 2, 4, QUICK, seed=0)
    rebuilt = encoded.decode(encoded.quantizer.rebuilt(encoded.quantizer.nearest(encoded.latents)))
    assert rebuilt.shape == vectors.shape and rebuilt.dtype == np.float32
    assert explained(vectors, rebuilt) > 0.95


def test_training_explains_more_than_the_first_latents_do():
    vectors = np.random.default_rng(1).normal(size=(120, 12)).astype(np.float32)
    shares = []
    for epochs in (1, 100):
        encoded = fit_rqvae(vectors, 2, 8, replace(QUICK, rqvae_epochs=epochs), seed=0)
        shares.append(
            explained(vectors, encoded.decode(encoded.quantizer.rebuilt(encoded.quantizer.nearest(encoded.latents))))
        )
    assert shares[1] > shares[0] + 0.2


def test_the_same_seed_gives_the_same_codes_and_leaves_the_global_dice_alone():
    vectors = np.random.default_rng(1).normal(size=(60, 8)).astype(np.float32)
    torch.manual_seed(3)
    before = torch.get_rng_state()
    one = fit_rqvae(vectors, 2, 8, QUICK, seed=5)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(4)
    two, other = (fit_rqvae(vectors, 2, 8, QUICK, seed) for seed in (5, 6))
    assert (one.latents == two.latents).all() and one.revivals == two.revivals
    assert (one.quantizer.nearest(one.latents) == two.quantizer.nearest(two.latents)).all()
    assert not np.allclose(one.latents, other.latents)


def test_a_code_nobody_used_is_moved_onto_a_residual_of_its_level_and_the_others_stay():
    model = AutoEncoder(2, 4, 2)
    model.encoder = nn.Sequential(nn.Identity())
    model.codebooks.extend(
        [nn.Parameter(torch.tensor([[0.0, 0], [10, 10], [99, 99]])), nn.Parameter(torch.tensor([[0.0, 1], [-50, 0]]))]
    )
    data = torch.tensor([[0.0, 1], [10, 11], [10, 12]])
    used = [torch.tensor([True, True, False]), torch.tensor([True, False])]
    moved = revive(model, data, used, torch.Generator().manual_seed(0))
    assert moved == 2
    first, second = (codebook.detach() for codebook in model.codebooks)
    assert first[:2].tolist() == [[0, 0], [10, 10]] and second[0].tolist() == [0, 1]
    assert first[2].tolist() in data.tolist(), "a residual of level 1 is a latent"
    assert second[1].tolist() in [[0, 1], [0, 2]], "a residual of level 2 is what level 1 left over"


def alike():
    """Items of three kinds, nearly alike within a kind: most of the latents' first spread has to go."""
    dice = np.random.default_rng(2)
    return (5 * np.eye(3, 10)[np.arange(150) % 3] + dice.normal(0, 1, (150, 10))).astype(np.float32)


def test_codes_that_would_die_are_revived(monkeypatch):
    options, vectors = replace(QUICK, rqvae_epochs=40, rqvae_learning_rate=0.05), alike()

    def unused():
        encoded = fit_rqvae(vectors, 2, 24, options, seed=0)
        codes = encoded.quantizer.nearest(encoded.latents)
        return 48 - sum(len(np.unique(level)) for level in codes.T), encoded.revivals

    with_revival, revivals = unused()
    monkeypatch.setattr(rqvae, "revive", lambda *_: 0)
    without, none = unused()
    assert revivals > 0 and none == 0
    assert with_revival == 0 and without >= 3


def test_codes_are_made_by_it_without_collisions_and_its_figures_say_so():
    vectors = np.random.default_rng(3).normal(size=(40, 6)).astype(np.float32)
    codes, raw, figures, _ = codes_of(replace(QUICK, size=8), vectors, seed=0)
    assert codes.sizes == (8, 8) and raw.shape == (40, 2)
    assert len({tuple(row) for row in codes.table}) == 40
    assert set(figures) == {"method", "revivals", "explained_before", "explained_after"}
    assert figures["method"] == "rqvae" and figures["explained_after"] <= figures["explained_before"] <= 1


def test_the_figures_of_residual_k_means_are_its_own_error():
    vectors = np.random.default_rng(3).normal(size=(40, 6)).astype(np.float32)
    codes, raw, figures, _ = codes_of(ItemicOptions(levels=1, size=40), vectors, seed=0)
    assert figures == {"method": "rqkmeans", "explained_before": 1.0, "explained_after": 1.0}
    assert (codes.table == raw).all()


def test_the_share_of_variance_explained_of_a_hand_made_world():
    vectors = np.array([[0.0], [2], [4], [6]])
    assert explained(vectors, vectors) == 1
    assert explained(vectors, np.full((4, 1), 3.0)) == 0
    assert explained(vectors, np.array([[1.0], [1], [5], [5]])) == pytest.approx(1 - 4 / 20)
    assert explained(np.ones((3, 2)), np.ones((3, 2))) == 1 and explained(np.ones((3, 2)), np.zeros((3, 2))) == 0


def test_fewer_items_than_codes_and_vectors_that_are_no_numbers_are_input_errors():
    vectors = np.zeros((5, 3), np.float32)
    with pytest.raises(InputError, match=r"itemic\.size=8 .* the catalogue has 5"):
        fit_rqvae(vectors, 1, 8, QUICK, 0)
    vectors[2, 1] = np.nan
    with pytest.raises(InputError, match="NaN or infinity"):
        fit_rqvae(vectors, 1, 2, QUICK, 0)


@pytest.mark.parametrize(
    "wrong",
    [{"method": "magic"}, {"rqvae_epochs": 0}, {"rqvae_latent": 0}, {"rqvae_hidden": -1}, {"rqvae_batch": 0},
     {"rqvae_learning_rate": 0.0}, {"rqvae_learning_rate": float("nan")}],
    ids=str,
)  # fmt: skip
def test_options_that_make_no_sense_are_refused_by_name(wrong):
    with pytest.raises(InputError, match=rf"itemic\.{next(iter(wrong))} must"):
        ItemicOptions(**wrong)
