"""An OpenAI-compatible server as an engine: vLLM's, and any other that takes its extensions of the completions API.

Asks with token ids and reads token ids, so that no text is spelt twice. Of a server it wants ``allowed_token_ids``,
log-probabilities of what is allowed after that restriction (vLLM: ``--logprobs-mode processed_logprobs``), as many as a
level has codes (``--max-logprobs``), and token ids in answers. What it does not give is found out by one question
before any other. A server that goes away is asked again for ``engine.patience_s``; one that was away, or may have been,
must first show that it has the same model still.
R prompts, N continuations of each, S codes of a level.
"""

import logging
import os
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from typing import Any

import numpy as np

from recbole_think.decoding.engine import EngineOptions, Prompts, Said, Speech, spoken
from recbole_think.decoding.probe import Probe
from recbole_think.decoding.sampling import SampleOptions
from recbole_think.errors import InputError, UnavailableError

log = logging.getLogger(__name__)
FIRST_WAIT_S, LONGEST_WAIT_S = 0.5, 10.0  # between two tries
IDLE_S = 5.0  # a server that was not asked for so long may have been started again, which takes longer
SHOWN = 300  # characters of what a server said


def require_server(options: EngineOptions) -> None:
    """Check what can be checked of a server without asking it.

    Raises:
        InputError: no address, or the openai package is missing.
    """
    if not options.url.startswith(("http://", "https://")):
        raise InputError(
            f"decode.engine=openai needs engine.url, the address of a server such as http://127.0.0.1:8000/v1, "
            f"got {options.url!r}"
        )
    if find_spec("openai") is None:
        raise InputError('decode.engine=openai needs the openai package: pip install "recbole-think[teacher]"')


@dataclass
class Server:
    """A server that continues prompts and says what codes are worth."""

    options: EngineOptions
    client: Any
    model: str
    pool: ThreadPoolExecutor
    probe: Probe | None = None  # what it must answer; None = it is not known yet
    answered: float = field(default_factory=time.monotonic)  # when it last did
    stop: threading.Event = field(default_factory=threading.Event)  # nobody waits for answers any more

    def believe(self, probe: Probe) -> None:
        """Ask what only the right model answers so, now and whenever it may be another one than before.

        Raises:
            InputError: it gives no log-probabilities, does not keep to what is allowed, or holds another model.
        """
        self.probe = None
        self._patiently(partial(self._require_same, probe))
        self.probe = probe

    def say(self, prompts: Prompts, how: SampleOptions, speech: Speech, seeds: Sequence[int]) -> list[list[Said]]:
        """See ``engine.Engine``; a request each."""
        asked = {
            "max_tokens": how.max_tokens, "temperature": how.temperature, "n": how.samples,
            "stop_token_ids": [speech.stop], "return_token_ids": True, **speech.limits(),
        }  # fmt: skip
        if how.top_k:
            asked["top_k"] = how.top_k

        def one(prompt: Sequence[int], seed: int) -> list[Said]:
            choices = self._patiently(partial(self._complete, [prompt], {**asked, "seed": seed}))
            return [spoken(_said(choice, self.options.url), how, speech.stop) for choice in choices]

        return self._together(one, prompts, seeds)

    def code_log_probs(self, prompts: Prompts, tokens: Sequence[int]) -> np.ndarray:
        """See ``engine.CodeEngine``; ``engine.rows`` prompts a request."""

        def some(first: int) -> np.ndarray:
            asked = prompts[first : first + self.options.rows]
            return self._patiently(partial(self._codes, asked, tokens))

        return np.concatenate(self._together(some, range(0, len(prompts), self.options.rows)))

    def _codes(self, prompts: Prompts, tokens: Sequence[int]) -> np.ndarray:
        """One request for the codes of a level: float32 [R, S]."""
        place = {f"token_id:{token}": at for at, token in enumerate(tokens)}
        asked = {
            "max_tokens": 1, "temperature": 0.0, "logprobs": len(tokens), "allowed_token_ids": list(tokens),
            "return_tokens_as_token_ids": True,
        }  # fmt: skip
        return np.stack([_row(choice, place, self.options.url) for choice in self._complete(prompts, asked)])

    def _require_same(self, probe: Probe) -> None:
        """One request, whose answer is known."""
        probe.require_same(self._codes([probe.prompt], probe.tokens)[0], self.model, self.options.url)

    def _together(self, one: Callable[..., Any], *of: Iterable[Any]) -> list[Any]:
        """Ask several at once; who is interrupted is not kept waiting by those who wait for answers."""
        try:
            return list(self.pool.map(one, *of))
        except Exception:
            raise
        except BaseException:
            self.stop.set()
            self.pool.shutdown(wait=False, cancel_futures=True)
            self.client.close()
            raise

    def models(self) -> list[str]:
        """Names of the models it has."""

        def ask() -> list[str]:
            given = self.client.models.with_raw_response.list().http_response.json()
            return [str(_field(one, "id")) for one in _field(given, "data")]

        return self._patiently(ask)

    def _complete(self, prompts: Prompts, asked: dict[str, Any]) -> list[dict[str, Any]]:
        """Choices of one request, asked once, in the order of prompts."""
        known = {name: asked[name] for name in ("max_tokens", "temperature", "n", "logprobs", "seed") if name in asked}
        more = {name: value for name, value in asked.items() if name not in known}
        ids = [[int(token) for token in prompt] for prompt in prompts]
        given = self.client.completions.with_raw_response.create(
            model=self.model, prompt=ids, extra_body=more, **known
        ).http_response.json()
        choices, wanted = _field(given, "choices"), len(ids) * asked.get("n", 1)
        if len(choices) != wanted:
            raise InputError(f"the server at {self.options.url} gave {len(choices)} answers, {wanted} were asked for")
        return sorted(choices, key=lambda choice: _field(choice, "index"))

    def _patiently(self, ask: Callable[[], Any]) -> Any:
        """Ask until there is an answer, a refusal, or no patience left.

        Raises:
            UnavailableError: the server has not answered for ``patience_s``.
            InputError: it refuses, answers something else, or has another model than before.
        """
        import openai

        options, begin, wait = self.options, time.monotonic(), FIRST_WAIT_S
        doubtful = begin - self.answered > IDLE_S
        while True:
            try:
                if doubtful and self.probe is not None:
                    self._require_same(self.probe)
                given, self.answered = ask(), time.monotonic()
                return given
            except InputError:  # a ValueError too, but said by us
                raise
            except (openai.APIConnectionError, openai.InternalServerError, openai.RateLimitError, ValueError) as why:
                if time.monotonic() - begin >= options.patience_s:
                    raise UnavailableError(
                        f"the server at {options.url} has not answered for {options.patience_s:g} s: {_short(why)}; "
                        f"what it answered before is kept: start it again, then run the same command"
                    ) from why
                log.warning("the server at %s: %s; asking again in %.1f s", options.url, _short(why), wait)
            except openai.OpenAIError as why:
                raise InputError(f"the server at {options.url} refuses: {_short(why)} (docs/engines.md)") from why
            doubtful = True
            if self.stop.wait(wait):
                raise UnavailableError(f"the server at {options.url} is not waited for: interrupted")
            wait = min(2 * wait, LONGEST_WAIT_S)


def connected(options: EngineOptions) -> Server:
    """A server that answers and has the model.

    Raises:
        InputError: it cannot be reached, refuses us, or has not the model.
    """
    require_server(options)
    import openai

    for name in ("httpx", "httpx2"):  # openai's; a line for every request would bury a run's log
        logging.getLogger(name).setLevel(logging.WARNING)
    key = os.environ.get(options.key_variable) or "none"
    client = openai.OpenAI(base_url=options.url, api_key=key, timeout=options.timeout_s, max_retries=0)
    server = Server(options, client, options.model, ThreadPoolExecutor(options.workers))
    names = server.models()
    if options.model and options.model not in names:
        raise InputError(f"the server at {options.url} has no model {options.model!r}: it has {', '.join(names)}")
    if not options.model and len(names) != 1:
        raise InputError(f"the server at {options.url} has {len(names)} models, name one by engine.model: {names}")
    server.model = options.model or names[0]
    return server


def _said(choice: dict[str, Any], url: str) -> list[int]:
    """Token ids of a continuation."""
    ids = choice.get("token_ids")
    if not isinstance(ids, list):
        raise InputError(f"the server at {url} answers no token ids (return_token_ids), which thoughts are read by")
    return ids


def _row(choice: dict[str, Any], place: dict[str, int], url: str) -> np.ndarray:
    """Log-probabilities of one position: float32 [S]."""
    given = (choice.get("logprobs") or {}).get("top_logprobs") or []
    if not given or not isinstance(given[0], dict):
        raise InputError(
            f"the server at {url} gives no log-probabilities, which beams are made of: it must answer logprobs in the "
            f"completions API, as vLLM does"
        )
    row = np.full(len(place), np.nan, dtype=np.float32)
    for name, value in given[0].items():
        if name in place:
            row[place[name]] = value
    if (missing := int(np.isnan(row).sum())) or len(given[0]) > len(place):
        other = next((name for name in given[0] if name not in place), "")
        raise InputError(
            f"the server at {url} left out {missing} of {len(place)} codes that were allowed"
            f"{f' and named {other!r} instead' if other else ''}: it must keep to allowed_token_ids, answer token ids "
            f"(return_tokens_as_token_ids) and as many log-probabilities as a level has codes; start vLLM with "
            f"--max-logprobs {len(place)} --logprobs-mode processed_logprobs"
        )
    return row


def _field(given: Any, name: str) -> Any:
    """A field of an answer.

    Raises:
        ValueError: it has none: whatever came is no answer.
    """
    if not isinstance(given, dict) or given.get(name) is None:
        raise ValueError(f"no {name} in {_short(given)}")
    return given[name]


def _short(said: Any) -> str:
    """Something a server said, on one short line."""
    cause = getattr(said, "__cause__", None)
    text = " ".join(f"{said}{f' ({cause})' if cause else ''}".split())
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."
