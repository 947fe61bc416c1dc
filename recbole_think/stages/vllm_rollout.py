"""Rationales drawn by vLLM, through TRL's own engine: the policy's weights are sent to it before every step's draws.

vLLM draws rationales alone. Where each led is found by our own beams on the policy itself, which first reads what was
drawn: the search of an item over the trie needs its hidden states, and a reward is of the weights that learn.

Which log-probabilities GRPO must see. An engine is told the words a thought may be made of (``allowed_token_ids``) and
the temperature, and tells the log-probability of what it drew out of just those words (``processed_logprobs``, which
TRL sets where it makes the engine and ``vllm_server.py`` asks of a server). They go to TRL as they are. TRL scores the
same tokens by the policy before the update and weighs every rationale by the ratio of the two (masked importance
sampling: of an engine in bfloat16 with other kernels it is near 1; beyond 3 a rationale is left out). So the policy has
to be scored out of those words too (``scored_words``): out of the whole dialect, codes included, the ratio would also
be the share that words have of it, and rationales would be weighed down by their length. The mark a rationale is closed
with at its limit was not drawn; it is masked, as where we draw.

B prompts, G rationales of each, S tokens of the longest.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from recbole_think.decoding.sampling import Samples, reread
from recbole_think.stages.rollout import Rollout
from recbole_think.stages.vllm_server import require_server


@dataclass
class VllmRollout(Rollout):
    """Lets TRL's engine draw rationales, and follows them."""

    server: str = ""  # its URL; empty = the engine lives in this process

    def engine(self, policy: Path) -> dict[str, Any]:
        """See ``Drawing``.

        Raises:
            InputError: no server, or one that serves something else.
        """
        longest = max(len(one.ids) for one in self.asked) + self.sampling.max_tokens
        told = {
            "use_vllm": True,
            "max_completion_length": self.sampling.max_tokens,
            "generation_kwargs": {"allowed_token_ids": self.only.tolist(), "stop_token_ids": [self.stop]},
        }
        if not self.server:
            return {**told, "vllm_mode": "colocate", "vllm_max_model_length": longest}
        require_server(self.server, policy, longest, self.dialect.tokenizer(self.vocabulary))
        return {**told, "vllm_mode": "server", "vllm_server_base_url": self.server}

    def drawn(self, policy: Any, numbers: Sequence[int], trainer: Any) -> Callable[[Sequence[int]], Samples]:
        """See ``Rollout``; all are drawn at once, since an engine makes its own batches. Chance is the engine's."""
        prompts = [self.asked[number].ids.tolist() for number in numbers for _ in range(self.group)]
        _, said, log_probs, _ = trainer.vllm_generation.generate(prompts, None, self.group)
        whole = told_apart(said, log_probs, self.stop, self.sampling.max_tokens)
        tokens, lengths, closed, likely = (of.unflatten(0, (len(numbers), self.group)) for of in whole)

        def draw(rows: Sequence[int]) -> Samples:
            ids, attention = self.prompts([numbers[row] for row in rows])
            at = list(rows)
            return reread(policy, ids, attention, tokens[at], lengths[at], closed[at], likely[at])

        return draw


def told_apart(
    said: Sequence[Sequence[int]], log_probs: Sequence[Sequence[Sequence[float | None]]], stop: int, longest: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What an engine returns, as our sampler has it: what did not end by itself is closed at the limit.

    Args:
        said: token ids of R completions; the stop token ends those that ended by themselves.
        log_probs: of each token, in a list of one; None = vLLM could not say.
        stop: token that ends a completion.
        longest: tokens it may have.

    Returns:
        tokens int64 [R, S], the stop token last, then padding with it; lengths int64 [R]; closed bool [R]; log_probs
        float32 [R, S], NaN where vLLM could not say and 0 where nothing was drawn.
    """
    closed = torch.tensor([bool(one) and one[-1] == stop for one in said])
    drawn = [
        len(one) if ended else min(len(one), longest - 1) for one, ended in zip(said, closed.tolist(), strict=True)
    ]
    lengths = torch.tensor(drawn) + (~closed).long()
    tokens = torch.full((len(said), int(lengths.max())), stop)
    likely = torch.zeros(tokens.shape)
    for row, length in enumerate(drawn):
        tokens[row, :length] = torch.tensor(said[row][:length])
        found = [torch.nan if value is None else value for [value] in log_probs[row][:length]]
        likely[row, :length] = torch.tensor(found)
    return tokens, lengths, closed, likely
