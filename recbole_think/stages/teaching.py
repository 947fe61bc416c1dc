"""Asking a teacher: many questions at once to an OpenAI-compatible server, kept as they are answered, counted.

Retries and time limits are the openai package's; here is what a long job needs besides: it goes on past questions that
get no answer, whatever the server sends instead of one, counts them, and stops where nothing is answered any more.
"""

import logging
import os
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

from tqdm import tqdm

from recbole_think.errors import InputError
from recbole_think.stages.activation_options import TeacherOptions

log = logging.getLogger(__name__)
Messages = list[dict[str, str]]
SHOWN = 200  # characters of what a server said instead of an answer


def require_teacher(options: TeacherOptions) -> None:
    """Check that a teacher can be asked at all, before anything else is done.

    Raises:
        InputError: no server or model is named, or the openai package is missing.
    """
    for name in ("url", "model"):
        if not getattr(options, name):
            raise InputError(
                f"activation.source=teacher needs teacher.{name}, which is empty: name a server and its model, such as "
                f"--teacher.url=http://127.0.0.1:8000/v1 --teacher.model=qwen3-8b, or take another activation.source"
            )
    if not options.url.startswith(("http://", "https://")):
        raise InputError(
            f"teacher.url={options.url!r} must begin with http:// or https://, such as http://127.0.0.1:8000/v1"
        )
    if find_spec("openai") is None:
        raise InputError('activation.source=teacher needs the openai package: pip install "recbole-think[teacher]"')


@dataclass
class Asker:
    """Puts questions to a server."""

    options: TeacherOptions
    show_progress: bool = True
    counts: dict[str, float] = field(default_factory=dict)  # asked, failed, prompt_tokens, answer_tokens, seconds
    _lock: Any = field(default_factory=threading.Lock, init=False, repr=False, compare=False)  # of all below and counts
    _in_a_row: int = field(default=0, init=False, repr=False, compare=False)  # questions without an answer
    _why: str = field(default="", init=False, repr=False, compare=False)  # the last of them had none

    def __call__(self, questions: Mapping[str, Messages], keep: Callable[[Mapping[str, str]], Any]) -> None:
        """Ask every question; ``keep`` is given each answer as it comes, also those under way when another fails.

        Args:
            questions: by key.
            keep: called with {key: answer}, from the threads that ask, one at a time; no answer is empty.

        Raises:
            InputError: the server refuses us, or ``give_up`` questions in a row got no answer.
        """
        if not questions:
            return
        options, begin, failed = self.options, time.perf_counter(), self.counts.get("failed", 0)
        self._in_a_row = 0
        with self._client() as client, self._bar(len(questions)) as bar:
            pool = ThreadPoolExecutor(options.workers)
            try:
                asked = [pool.submit(self._settle, client, *question, keep) for question in questions.items()]
                for done in as_completed(asked):
                    done.result()
                    bar.update()
                    bar.set_postfix(failed=int(self.counts.get("failed", 0)), refresh=False)
            finally:
                pool.shutdown(wait=True, cancel_futures=True)
                self._count(seconds=time.perf_counter() - begin)
        if failed := int(self.counts.get("failed", 0) - failed):
            log.warning("teacher: %d of %d questions got no answer, the last: %s", failed, len(questions), self._why)

    def _client(self) -> Any:
        options = self.options
        require_teacher(options)
        import openai

        key = os.environ.get(options.key_variable) or "none"
        return openai.OpenAI(base_url=options.url, api_key=key, timeout=options.timeout_s, max_retries=options.retries)

    def _bar(self, total: int) -> tqdm:
        return tqdm(total=total, desc="teacher", unit="answer", disable=not self.show_progress)

    def _settle(self, client: Any, key: str, messages: Messages, keep: Callable[[Mapping[str, str]], Any]) -> None:
        """Ask one question, count it, and keep its answer if there is one."""
        answer, why, used = self._ask(client, messages)
        self._count(asked=1, failed=not answer, **used)
        with self._lock:
            if answer:
                self._in_a_row = 0
                keep({key: answer})
                return
            self._in_a_row += 1
            self._why = why
            if self._in_a_row >= self.options.give_up:
                raise InputError(
                    f"the teacher at {self.options.url} left {self._in_a_row} questions in a row without an answer, "
                    f"the last: {why}; what it answered is kept: mend this (see the block teacher), then run the same "
                    f"command again"
                )

    def _ask(self, client: Any, messages: Messages) -> tuple[str, str, dict[str, int]]:
        """One answer, or an empty one and why it is, after all retries; and the tokens it took."""
        import openai

        options = self.options
        try:
            given = client.chat.completions.create(
                model=options.model, messages=messages, temperature=options.temperature, max_tokens=options.max_tokens
            )
        except (openai.AuthenticationError, openai.PermissionDeniedError, openai.NotFoundError) as why:
            raise InputError(
                f"the teacher at {options.url} refuses teacher.model={options.model!r}: {_short(why)} (see teacher.url "
                f"and teacher.model; the key is read from ${options.key_variable})"
            ) from why
        except (openai.OpenAIError, ValueError) as why:  # ValueError: what came is not JSON
            cause = f" ({_short(why.__cause__)})" if why.__cause__ else ""
            return "", f"{_short(why)}{cause}", {}
        answer = _answer(given)
        return answer, "" if answer else f"no text in {_short(given)}", _used(given)

    def _count(self, **more: float) -> None:
        with self._lock:
            for name, value in more.items():
                self.counts[name] = self.counts.get(name, 0) + value


def _answer(given: Any) -> str:
    """The text of a response; empty where there is none, whatever it is instead."""
    try:
        text = given.choices[0].message.content
    except (AttributeError, IndexError, KeyError, TypeError):
        return ""
    # JSON may hold half a character, which neither a file nor a tokenizer takes
    return text.encode("utf-8", "replace").decode().strip() if isinstance(text, str) else ""


def _used(given: Any) -> dict[str, int]:
    """Tokens read and written, as far as the server says."""
    usage = getattr(given, "usage", None)
    found = {
        "prompt_tokens": getattr(usage, "prompt_tokens", None),
        "answer_tokens": getattr(usage, "completion_tokens", None),
    }
    return {name: value if isinstance(value, int) else 0 for name, value in found.items()}


def _short(said: Any) -> str:
    """Something a server said, on one short line."""
    text = " ".join(str(said).split())
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."
