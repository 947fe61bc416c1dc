"""vLLM's own server as a process on loopback that can be killed and started again; used by vllm_check.py."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import suppress
from pathlib import Path

UP_S = 900  # a server may take to start on a busy machine


class VllmServer:
    """vLLM's server as a process that can be killed and started again at the same address."""

    def __init__(self, folder: Path, precision: str, most: int):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.url, self.log = f"http://127.0.0.1:{port}/v1", folder.parent / "server.log"
        self.command = [
            sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(folder), "--host", "127.0.0.1",
            "--port", str(port), "--dtype", precision, "--max-logprobs", str(most),
            "--logprobs-mode", "processed_logprobs", "--enable-prefix-caching", "--enforce-eager",
            "--max-model-len", "1024", "--no-enable-chunked-prefill", "--max-num-batched-tokens", "4096",
            "--block-size", "32", "--served-model-name", "small",
        ]  # fmt: skip
        self.process: subprocess.Popen | None = None
        self.starts: list[float] = []  # seconds of each

    def __enter__(self) -> "VllmServer":
        self.start()
        return self

    def __exit__(self, *_) -> None:
        self.kill()

    def start(self) -> None:
        """Start, and come back when it answers."""
        begin = time.perf_counter()
        environment = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_NUM_OF_RESERVED_CPU": "0", "HF_HUB_OFFLINE": "1"}
        with self.log.open("a") as out:
            self.process = subprocess.Popen(
                self.command, stdout=out, stderr=subprocess.STDOUT, env={**environment, **os.environ},
                cwd=self.log.parent, start_new_session=True,
            )  # fmt: skip
        while time.perf_counter() - begin < UP_S:
            if self.process.poll() is not None:
                raise SystemExit(f"the server ended while it started; see {self.log}")
            try:
                self.told("v1/models")
                self.starts.append(round(time.perf_counter() - begin, 1))
                return
            except OSError:
                time.sleep(0.5)
        raise SystemExit(f"no server after {UP_S} s; see {self.log}")

    def told(self, path: str) -> str:
        """What it answers to a question without a body."""
        ask = urllib.request.build_opener(urllib.request.ProxyHandler({})).open
        with ask(f"{self.url.removesuffix('v1')}{path}", timeout=5) as answer:
            return answer.read().decode()

    def prefix_cache(self) -> dict[str, float]:
        """Tokens of prompts since it started, and those of them that it had read before."""
        told = self.told("metrics")

        def total(counter: str) -> float:
            return sum(map(float, re.findall(rf"^vllm:prefix_cache_{counter}_total{{.*}} (\S+)$", told, re.MULTILINE)))

        return {"tokens": total("queries"), "hits": total("hits")}

    def kill(self) -> None:
        """SIGKILL, engine process included."""
        if self.process is not None:
            with suppress(ProcessLookupError):  # all of them have ended
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None
