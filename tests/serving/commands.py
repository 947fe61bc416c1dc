"""The server's own command, as somebody would start it, and kill it."""

import os
import signal
import subprocess
import sys
from pathlib import Path

from tests.serving.running import Client


class Command:
    """A server started from the command line."""

    def __init__(self, *words: str, log: Path):
        self.words, self.log = words, log
        self.start()

    def start(self) -> None:
        """Start, and wait until it says where it is."""
        with self.log.open("a") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "recbole_think.serving", *self.words], stdout=subprocess.PIPE, stderr=errors,
                text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
            )  # fmt: skip
        line = self.process.stdout.readline()
        if " serves " not in line:
            raise RuntimeError(f"the server did not start: {self.log.read_text()[-2000:]}")
        self.client = Client(line.split(" ")[0])

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def stop(self, seconds: float = 30) -> int:
        """As a supervisor stops it; the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(seconds)
