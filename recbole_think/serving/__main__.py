"""The server: lists in milliseconds, guided by what was thought ahead of time.

    python -m recbole_think.serving --run <run folder> [--store <url>] [--port 8000]

Answers on /recommend, /events, /explain, /health, /metrics; /docs shows them all. Needs no thoughts to begin with: who
was not thought about gets the direct model's own list. Exit codes: 0 stopped (SIGTERM), 2 what was asked for cannot be
done, 130 interrupted (Ctrl-C).
"""

import argparse
import logging
import os
import signal
import socket
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path

from recbole_think.errors import InputError, exit_code
from recbole_think.quiet import quiet

EXTRA = 'the server needs FastAPI and others: pip install "recbole_think[serve]"'


def main(argv: Sequence[str]) -> int:
    """Run the command line; return the exit code."""
    given = _parser().parse_args(argv)
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s  %(message)s")
    logging.getLogger("recbole_think.serving").setLevel(logging.INFO if given.verbose else logging.WARNING)
    quiet()
    return exit_code(lambda: _serve(given), "the server has stopped")


def _serve(given: argparse.Namespace) -> int:
    try:
        import uvicorn

        from recbole_think.serving.app import ServerOptions
    except ImportError as why:
        raise InputError(f"{EXTRA} ({why})") from why
    from recbole_think.serving.opening import opened

    key = os.environ.get(given.key_variable, "") if given.key_variable else ""
    if given.key_variable and not key:
        raise InputError(f"--key_variable={given.key_variable}: the environment has no such variable, or it is empty")
    options = ServerOptions(given.together, given.waiting, given.timeout_s, given.most_kib, key)
    listening = _listening(given.host, given.port)
    with redirect_stdout(sys.stderr):  # some models print; standard output is for the address
        server, watcher = opened(given, options)
    patience = int(given.timeout_s) + 1
    config = uvicorn.Config(server.app, log_level="warning", access_log=False, timeout_graceful_shutdown=patience)
    listener = uvicorn.Server(config)
    # uvicorn takes the signal over while it runs, and raises it again after it has stopped well
    signal.signal(signal.SIGTERM, lambda *_: setattr(listener, "should_exit", True))
    listening.listen(128)
    host, port = listening.getsockname()[:2]
    sys.stdout.write(f"http://{host}:{port} serves {given.run}\n")
    sys.stdout.flush()
    watcher.start()
    try:
        listener.run(sockets=[listening])
    finally:
        watcher.stop()
    return 0


def _listening(host: str, port: int) -> socket.socket:
    """Take the port before minutes of loading."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # by name: asyncio sends small answers at once (TCP_NODELAY) only on sockets that say they are TCP
    found = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        found.bind((host, port))
    except (OSError, OverflowError) as why:
        raise InputError(f"--host={host} --port={port}: {why}; choose another") from why
    return found


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m recbole_think.serving", description=__doc__, allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    add = parser.add_argument
    add("--run", type=Path, required=True, help="folder of a finished run with a direct model (stage recommendation)")
    add("--store", default="", help="sqlite:///<file> or redis://...; default: a file in the run folder")
    add("--live", type=Path, default=None, help="versions of the direct model; default: a folder in the run folder")
    add("--split", default="", help="how far histories of the data set go, where the store is empty (default: all)")
    add("--host", default="127.0.0.1", help="default: %(default)s, this machine alone")
    add("--port", type=int, default=8000, help="0 = any that is free (default: %(default)s)")
    add("--num_beams", type=int, default=0, help="of an answer; 0 = as the run was evaluated")
    add("--free", type=float, default=0.2, help="share of a list beside what was thought of (default: %(default)s)")
    add("--cache_mib", type=int, default=256, help="for keys and values of prompts (default: %(default)s)")
    add("--block", type=int, default=5, help="events a full prompt forgets at once (default: %(default)s)")
    add("--together", type=int, default=16, help="lists made together at most (default: %(default)s)")
    add("--waiting", type=int, default=64, help="requests that wait at most, then 429 (default: %(default)s)")
    add("--timeout_s", type=float, default=5.0, help="a list later than this is not made (default: %(default)s)")
    add("--most_kib", type=int, default=256, help="of a request's body (default: %(default)s)")
    add("--key_variable", default="", help="environment variable that holds the key requests must bring; default: none")
    add("--reload_s", type=float, default=2.0, help="how often versions are looked at (default: %(default)s)")
    add("--verbose", action="store_true", help="log every request")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
