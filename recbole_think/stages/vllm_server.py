"""Whether a vLLM server can draw for the policy: reached, set up for weights to be sent to it, of the same tokens.

Asks over HTTP what TRL's client will ask, and the server's own spelling of every token. A server that is missing or
another one is told with the command that starts the right one; the stages before have finished by then, so that the
same command of ours goes on from here.
"""

import json
from pathlib import Path
from shlex import quote
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

from recbole_think.errors import InputError

TIMEOUT = 30.0  # seconds of one question
PROCESSED = "processed_logprobs"  # after the words that may be said and the temperature


def serve_command(server: str, policy: Path, longest: int) -> str:
    """The command that starts a server for a policy.

    Args:
        server: URL it shall have.
        policy: folder of the policy.
        longest: tokens of the longest prompt and rationale.
    """
    port = urlsplit(server).port or 8000
    return (
        f"VLLM_SERVER_DEV_MODE=1 vllm serve {quote(str(policy))} --host 0.0.0.0 --port {port} "
        f"--max-model-len {longest} --logprobs-mode {PROCESSED} --max-logprobs -1 "
        """--weight-transfer-config '{"backend": "nccl"}'"""
    )


def require_server(server: str, policy: Path, longest: int, tokenizer: Any) -> None:
    """Check a server before anything is drawn.

    Args:
        server: its URL.
        policy: folder of the policy, which it has to serve.
        longest: tokens of the longest prompt and rationale.
        tokenizer: of the policy.

    Raises:
        InputError: it cannot be reached, cannot be sent weights, or serves something else; says how to start it.
    """
    wrong = _wrong(server.rstrip("/"), longest, tokenizer)
    if wrong:
        raise InputError(
            f"enhancement.vllm_server={server}: {wrong}. Start it, where it can read that folder, with: "
            f"{serve_command(server, policy, longest)}; then give the same command again, which goes on from here"
        )


def _wrong(server: str, longest: int, tokenizer: Any) -> str:
    """What is wrong with a server; empty where nothing is."""
    try:
        model = _asked(f"{server}/v1/models")["data"][0]["id"]
        try:
            config = _asked(f"{server}/server_info?config_format=json")["vllm_config"]
        except HTTPError:
            return "it does not tell its settings, nor take weights (VLLM_SERVER_DEV_MODE=1 is not set there)"
        ids = list(range(len(tokenizer)))
        spelt = _asked(f"{server}/detokenize", {"model": model, "tokens": ids})["prompt"]
    except HTTPError as why:
        return f"it answers {why.code} to {urlsplit(why.url or '').path}, so it serves something else"
    except OSError as why:
        return f"it cannot be reached ({why})"
    except (ValueError, KeyError, IndexError, TypeError):
        return "what it answers is not what a vLLM server says"
    return _other(config, longest) or ("" if spelt == tokenizer.decode(ids) else "the tokens it serves are others")


def _other(config: dict[str, Any], longest: int) -> str:
    """Which of a server's settings are not what drawing needs."""
    of_model = config.get("model_config") or {}
    if (mode := of_model.get("logprobs_mode")) != PROCESSED:
        return f"its log-probabilities are {mode}, not of what may be said ({PROCESSED})"
    if (most := of_model.get("max_model_len") or 0) < longest:
        return f"it reads {most} tokens at most, and a prompt with its rationale has up to {longest}"
    if (config.get("weight_transfer_config") or {}).get("backend") != "nccl":
        return "weights cannot be sent to it by NCCL"
    return ""


def _asked(url: str, body: dict[str, Any] | None = None) -> Any:
    """A JSON answer; ``body`` is posted."""
    data = None if body is None else json.dumps(body).encode()
    with urlopen(Request(url, data, {"Content-Type": "application/json"}), timeout=TIMEOUT) as answer:
        return json.loads(answer.read())
