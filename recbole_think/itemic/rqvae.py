"""RQ-VAE: item vectors in, latents and a quantizer over them out.

A residual-quantised auto-encoder (Zeghidour et al. 2021, arXiv 2107.03312; Lee et al. 2022, arXiv 2203.01941) as TIGER
makes semantic ids with it (Rajput et al. 2023, arXiv 2305.05065): an encoder brings a vector to a small latent, L
codebooks name the latent and then its residuals, a decoder rebuilds the vector from the sum of the named centres.
The gradient passes the codebooks straight through (van den Oord et al. 2017, arXiv 1711.00937), with their commitment
loss. Codebooks start as k-means of the first latents; a code unused over an epoch is moved onto a random residual of
its level, as in SoundStream, since nothing else would ever pull it back.

Knows nothing of text or items. n items, d columns of a vector, k of a latent, L levels. Fits on the CPU.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from recbole_think.itemic.options import ItemicOptions
from recbole_think.itemic.quantize import Quantizer, residual_kmeans

COMMITMENT = 0.25  # weight of pulling latents to their centres, that of van den Oord et al. and TIGER


@dataclass(frozen=True)
class Encoded:
    """A fitted auto-encoder, as far as codes need it."""

    latents: np.ndarray  # float32 [n, k]
    quantizer: Quantizer  # over the latents
    decode: Callable[[np.ndarray], np.ndarray]  # float32 [m, k] -> [m, d], in the units of the vectors
    revivals: int  # codes moved because an epoch did not use them


class AutoEncoder(nn.Module):
    """Encoder, codebooks and decoder."""

    def __init__(self, d: int, hidden: int, k: int):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(d, hidden), nn.ReLU(), nn.Linear(hidden, k))
        self.decoder = nn.Sequential(nn.Linear(k, hidden), nn.ReLU(), nn.Linear(hidden, d))
        self.codebooks = nn.ParameterList()

    def walk(self, latents: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Name latents [m, k] level by level: codes int64 [m, L], and the L residuals [m, k] that were named."""
        codes, rests, rest = [], [], latents
        for centres in self.codebooks:
            rests.append(rest)
            with torch.no_grad():
                code = (centres.square().sum(1) - 2 * rest @ centres.T).argmin(1)
            codes.append(code)
            rest = rest - centres[code].detach()  # a codebook learns from its own level alone
        return torch.stack(codes, 1), rests

    def loss(self, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """Reconstruction, codebook and commitment loss of vectors [m, d]; the codes int64 [m, L] with it."""
        latents = self.encoder(vectors)
        codes, rests = self.walk(latents)
        total, named = latents.new_zeros(()), torch.zeros_like(latents)
        for code, rest, centres in zip(codes.T, rests, self.codebooks, strict=True):
            chosen = functional.embedding(code, centres)
            total = total + functional.mse_loss(chosen, rest.detach())
            total = total + COMMITMENT * functional.mse_loss(rest, chosen.detach())
            named = named + chosen.detach()
        rebuilt = self.decoder(latents + (named - latents).detach())
        return total + functional.mse_loss(rebuilt, vectors), codes


def fit_rqvae(vectors: np.ndarray, levels: int, size: int, options: ItemicOptions, seed: int) -> Encoded:
    """Fit the auto-encoder.

    Args:
        vectors: float32 [n, d].
        levels: codebooks.
        size: codes of each.
        options: the ``rqvae_`` keys are read.
        seed: of weights, order and revivals; the global state is left alone.

    Raises:
        InputError: fewer items than codes of one level, or values that are not finite.
    """
    centre, spread = vectors.mean(0), max(float(vectors.var(0).mean()) ** 0.5, 1e-12)  # so that the mean loses 1
    data = torch.from_numpy((vectors - centre) / spread)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AutoEncoder(vectors.shape[1], options.rqvae_hidden, options.rqvae_latent)
    with torch.no_grad():
        first = model.encoder(data).numpy()
    for centres in residual_kmeans(first, levels, size, seed).centres:
        model.codebooks.append(nn.Parameter(torch.from_numpy(centres)))
    revivals = _train(model, data, options, torch.Generator().manual_seed(seed))
    with torch.no_grad():
        latents = model.encoder(data).numpy()

    def decode(named: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return model.decoder(torch.from_numpy(named)).numpy() * spread + centre

    return Encoded(latents, Quantizer([codebook.detach().numpy() for codebook in model.codebooks]), decode, revivals)


def _train(model: AutoEncoder, data: Tensor, options: ItemicOptions, generator: torch.Generator) -> int:
    """Train in place; return how many codes were revived."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=options.rqvae_learning_rate, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, options.rqvae_epochs)
    revivals = 0
    for epoch in tqdm(range(options.rqvae_epochs), desc="rq-vae", unit="epoch", leave=False, disable=None):
        order = torch.randperm(len(data), generator=generator)
        used = _epoch(model, optimizer, [data[rows] for rows in order.split(options.rqvae_batch)])
        schedule.step()
        if epoch + 1 < options.rqvae_epochs:  # what is moved after the last epoch would never be trained
            revivals += revive(model, data, used, generator)
    return revivals


def _epoch(model: AutoEncoder, optimizer: torch.optim.Optimizer, batches: list[Tensor]) -> list[Tensor]:
    """Take one step per batch; return which codes were used, bool [size] per level."""
    used = [torch.zeros(len(centres), dtype=torch.bool) for centres in model.codebooks]
    for batch in batches:
        loss, codes = model.loss(batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        for seen, code in zip(used, codes.T, strict=True):
            seen[code] = True
    return used


@torch.no_grad()
def revive(model: AutoEncoder, data: Tensor, used: list[Tensor], generator: torch.Generator) -> int:
    """Move every unused code onto a random residual of its level; return how many."""
    _, rests = model.walk(model.encoder(data))
    for seen, rest, centres in zip(used, rests, model.codebooks, strict=True):
        dead = torch.nonzero(~seen).ravel()
        centres[dead] = rest[torch.randint(len(rest), (len(dead),), generator=generator)]
    return sum(int((~seen).sum()) for seen in used)
