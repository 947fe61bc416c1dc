"""A small server that speaks vLLM's dialect of the completions API, a real small model behind it, and its faults."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse


@dataclass
class Pretender:
    """Answers as vLLM does, but for what is wrong with it."""

    model: Any  # causal LM
    names: tuple[str, ...] = ("small",)
    max_logprobs: int = 256
    raw: bool = False  # log-probabilities of what was before the restriction
    shift: float = 0.0  # added to every log-probability
    without: str = ""  # a field of a choice that is left out
    lost: int = 0  # choices of an answer that are left out
    away: int = 0  # requests that get no answer from now on
    dies_after: int = -1  # requests that are answered before none is any more; -1 = all
    requests: list[dict[str, Any]] = field(default_factory=list)

    def complete(self, asked: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """Status and body of an answer."""
        self.requests.append(asked)
        if self.dies_after >= 0 and len(self.requests) > self.dies_after:
            return 503, {"error": {"message": "gone"}}
        if self.away:
            self.away -= 1
            return 503, {"error": {"message": "not now"}}
        if (asked.get("logprobs") or 0) > self.max_logprobs:
            return 400, {"error": {"message": f"Requested sample logprobs of {asked['logprobs']}, which is greater"}}
        asked["prompt"] = [list(prompt) for prompt in asked["prompt"]]
        first = self._logits(asked["prompt"])  # of what follows each prompt, all read together
        choices = [
            self._choice(prompt, logits, asked, number)
            for prompt, logits in zip(asked["prompt"], first, strict=True)
            for number in range(asked.get("n", 1))
        ]
        given = [{**choice, "index": place} for place, choice in enumerate(choices)]
        return 200, {"choices": given[: len(given) - self.lost]}

    @torch.no_grad()
    def _logits(self, prompts: list[list[int]]) -> list[torch.Tensor]:
        """Logits of the token after each prompt, those of one length in one batch."""
        found: dict[int, torch.Tensor] = {}
        for length in {len(prompt) for prompt in prompts}:
            rows = [row for row, prompt in enumerate(prompts) if len(prompt) == length]
            logits = self.model(torch.tensor([prompts[row] for row in rows])).logits[:, -1].float()
            found |= dict(zip(rows, logits, strict=True))
        return [found[row] for row in range(len(prompts))]

    def _choice(self, prompt: list[int], plain: torch.Tensor, asked: dict[str, Any], number: int) -> dict[str, Any]:
        dice = torch.Generator().manual_seed(asked.get("seed", 0) * 31 % 2**40 + number)
        logits = self._restricted(plain, asked)
        said = [self._drawn(logits, asked["temperature"], dice)]
        while len(said) < asked["max_tokens"] and said[-1] not in asked.get("stop_token_ids", []):
            [plain] = self._logits([[*prompt, *said]])
            logits = self._restricted(plain, asked)
            said.append(self._drawn(logits, asked["temperature"], dice))
        choice: dict[str, Any] = {"text": "", "token_ids": said}
        if asked.get("logprobs"):
            best = (plain if self.raw else logits).log_softmax(0).topk(min(asked["logprobs"], len(logits)))
            pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
            rows = {f"token_id:{token}": value + self.shift for token, value in pairs if value > float("-inf")}
            choice["logprobs"] = {"top_logprobs": [rows]}
        choice.pop(self.without, None)
        return choice

    def _restricted(self, logits: torch.Tensor, asked: dict[str, Any]) -> torch.Tensor:
        if allowed := asked.get("allowed_token_ids"):
            only = torch.full_like(logits, -torch.inf)
            only[allowed] = logits[allowed]
            return only
        biased = logits.clone()
        for token, bias in (asked.get("logit_bias") or {}).items():
            biased[int(token)] += bias
        return biased

    def _drawn(self, logits: torch.Tensor, temperature: float, dice: torch.Generator) -> int:
        if temperature == 0:
            return int(logits.argmax())
        return int(torch.multinomial((logits / temperature).softmax(0), 1, generator=dice))


@contextmanager
def serving(pretender: Pretender) -> Iterator[str]:
    """Serve for a while; gives the address."""
    app = FastAPI()

    @app.get("/v1/models")
    def models():
        return {"data": [{"id": name} for name in pretender.names]}

    @app.post("/v1/completions")
    async def completions(request: Request):
        status, body = pretender.complete(await request.json())
        return JSONResponse(body, status)

    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        server.should_exit = True
        thread.join()
