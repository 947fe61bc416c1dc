"""Asking a teacher: many questions at once to an OpenAI-compatible server, kept as they are answered, counted.

Retries and time limits are the openai package's; here is what a long job needs besides: it goes on past questions that
get no answer, counts them, and stops where nothing is answered any more.
"""

import logging
import os
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from threading import Lock
from typing import Any

from tqdm import tqdm

from recbole_think.errors import InputError
from recbole_think.stages.options import TeacherOptions

log = logging.getLogger(__name__)
Messages = list[dict[str, str]]


@dataclass
class Asker:
    """Puts questions to a server."""

    options: TeacherOptions
    show_progress: bool = True
    counts: dict[str, float] = field(default_factory=dict)  # asked, failed, prompt_tokens, answer_tokens, seconds
    lock: Any = field(default_factory=Lock)

    def __call__(self, questions: Mapping[str, Messages], keep: Callable[[Mapping[str, str]], Any]) -> None:
        """Ask every question; ``keep`` is given each answer as it comes.

        Args:
            questions: by key.
            keep: called with {key: answer}.

        Raises:
            InputError: the server refuses us, or ``give_up`` questions in a row got no answer.
        """
        options, client, begin = self.options, self._client(), time.perf_counter()
        in_a_row = 0
        pool = ThreadPoolExecutor(options.workers)
        try:
            asked = {pool.submit(self._ask, client, messages): key for key, messages in questions.items()}
            bar = tqdm(total=len(asked), desc="teacher", unit="answer", disable=not self.show_progress)
            for done in as_completed(asked):
                answer = done.result()
                in_a_row = 0 if answer is not None else in_a_row + 1
                if answer is not None:
                    keep({asked[done]: answer})
                elif in_a_row >= options.give_up:
                    raise InputError(
                        f"the teacher at {options.url} left {in_a_row} questions in a row without an answer; what it "
                        f"answered is kept: see that it runs, then run the same command again"
                    )
                bar.update()
                bar.set_postfix(failed=int(self.counts.get("failed", 0)), refresh=False)
            bar.close()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
            self._count(seconds=time.perf_counter() - begin)

    def _client(self) -> Any:
        try:
            import openai
        except ImportError as why:
            raise InputError(
                'activation.source=teacher needs the openai package: pip install "recbole-think[teacher]"'
            ) from why
        options = self.options
        if not options.url or not options.model:
            raise InputError("activation.source=teacher needs teacher.url and teacher.model, such as "
                             "--teacher.url=http://127.0.0.1:8000/v1 --teacher.model=qwen3-8b")  # fmt: skip
        key = os.environ.get(options.key_variable) or "none"
        return openai.OpenAI(base_url=options.url, api_key=key, timeout=options.timeout_s, max_retries=options.retries)

    def _ask(self, client: Any, messages: Messages) -> str | None:
        """One answer; None where there was none after all retries, or nothing in it."""
        import openai

        refused = openai.AuthenticationError, openai.PermissionDeniedError, openai.NotFoundError, openai.BadRequestError
        options = self.options
        try:
            given = client.chat.completions.create(
                model=options.model, messages=messages, temperature=options.temperature, max_tokens=options.max_tokens
            )
            said, usage = given.choices[0].message.content, given.usage
        except refused as why:
            raise InputError(f"the teacher at {options.url} refuses {options.model!r}: {why}") from why
        except (openai.OpenAIError, ValueError, LookupError, AttributeError, TypeError) as why:  # the last four: junk
            log.warning("teacher: no answer (%s: %s)", type(why).__name__, why)
            self._count(asked=1, failed=1)
            return None
        self._count(
            asked=1,
            failed=not (said and said.strip()),
            prompt_tokens=getattr(usage, "prompt_tokens", 0) or 0,
            answer_tokens=getattr(usage, "completion_tokens", 0) or 0,
        )
        return (said or "").strip() or None

    def _count(self, **more: float) -> None:
        with self.lock:
            for name, value in more.items():
                self.counts[name] = self.counts.get(name, 0) + value
