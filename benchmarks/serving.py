"""Answers online against one direct answer by the same model; batches against one by one; load, overload, memory.

    python benchmarks/serving.py [--run=<run folder>] [--layers=2] [--users=200] [--seconds=20] [--hold=600]

A real server (python -m recbole_think.serving) and clients of it on this machine. Without --run, SmolLM2-135M cut to
--layers (0 = whole) is taught for some steps on ml-100k and thinks ahead about everybody: what it has learnt does not
matter here. All ratios are of one run, sides in turn. Writes benchmarks/results/serving.json (serving-whole.json for
--layers=0).
"""

import argparse
import os
import random
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import requests
import torch
from bench import keep, options

from recbole_think import run
from recbole_think.memory import keep_memory
from recbole_think.serving.direct import Question
from recbole_think.serving.online import OnlineOptions, direct_model
from recbole_think.serving.run import ServedRun

K, BEAMS = 10, 50


def main() -> None:
    """Measure everything and write it down."""
    parser = options(__doc__, layers=2, users=200, seconds=20, hold=600, threads=1)
    parser.add_argument("--run", type=Path, default=None)
    given = parser.parse_args()
    keep_memory()
    torch.set_num_threads(given.threads)
    folder = given.run or made(given.layers)
    served = ServedRun(folder, "all")
    users = sorted(served.users)[: given.users]
    think(folder)
    found: dict[str, Any] = {}
    for name, measure in (("latency", latency), ("clients", clients), ("batching", batching), ("load", load)):
        found[name] = measure(folder, served, users, given)
        print(f"{name}: {found[name]}", flush=True)
    keep("serving-whole" if given.layers == 0 else "serving", given, **found)


def made(layers: int) -> Path:
    """A run that answers and thinks, after a few steps of each."""
    folder = Path("runs").resolve() / f"serving-bench-{layers}"
    if not (folder / "metrics.json").is_file():
        run("OneRecThink", "ml-100k", config_dict={
            "run_folder": str(folder), "backbone": {"layers": layers}, "stages": ["recommendation", "activation"],
            "recommendation": {"tokens": 8192, "epochs": 1, "validations": 1, "valid_users": 20, "checkpoints": 0},
            "activation": {"tokens": 8192, "validations": 1, "valid_users": 20, "checkpoints": 0},
            "instruments": {"users": 20}, "decode": {"num_beams": BEAMS, "thoughts": 2},
        })  # fmt: skip
    return folder


def think(folder: Path) -> None:
    """Think ahead about everybody."""
    words = ["-m", "recbole_think.serving.think_ahead", "--run", str(folder), "--thoughts", "5", "--prefixes", "10"]
    subprocess.run([sys.executable, *words], check=True, stdout=subprocess.DEVNULL)


class Server:
    """A server of its own process."""

    def __init__(self, folder: Path, threads: int, *words: str):
        command = [sys.executable, "-m", "recbole_think.serving", "--run", str(folder), "--port", "0", *words]
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
        assert self.process.stdout is not None
        self.url = self.process.stdout.readline().split(" ")[0]
        self._own = threading.local()

    def ask(self, user: str, k: int = K) -> tuple[int, float]:
        """Status and seconds of one request for a list."""
        session = getattr(self._own, "session", None)
        if session is None:
            session = self._own.session = requests.Session()
            session.trust_env = False
        begun = time.perf_counter()
        try:
            status = session.post(f"{self.url}/recommend", json={"user": user, "k": k}, timeout=30).status_code
        except requests.RequestException:
            status = 0
        return status, time.perf_counter() - begun

    def memory_mib(self) -> float:
        """What the process holds now."""
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024

    def metric(self, name: str) -> float:
        """A number of /metrics."""
        session = requests.Session()
        session.trust_env = False
        lines = session.get(f"{self.url}/metrics", timeout=30).text.splitlines()
        return next(float(line.split()[-1]) for line in lines if line.startswith(f"recbole_think_{name} "))


@contextmanager
def serving(folder: Path, threads: int, *words: str) -> Iterator[Server]:
    """Serve for a while."""
    server = Server(folder, threads, *words)
    try:
        yield server
    finally:
        server.process.send_signal(signal.SIGTERM)
        server.process.wait(60)


def latency(folder: Path, served: ServedRun, users: Sequence[str], given: argparse.Namespace) -> dict[str, Any]:
    """One client: online over HTTP from cold and with kept prompts, and the same model's direct answer in process."""
    model = direct_model(served, OnlineOptions())
    most = served.model.ranker.max_history

    def direct(user: str) -> float:
        history = served.history(user)
        begun = time.perf_counter()
        model.lists([Question(model.prompt(history[-most:]), np.unique(history), None)], 0.0, [K])
        return time.perf_counter() - begun

    seconds: dict[str, list[float]] = {"direct": [], "cold": [], "kept": []}
    with serving(folder, given.threads) as server:
        for user in users[:5]:
            server.ask(user), direct(user)
        for user in users[5:]:
            seconds["direct"].append(direct(user))
            for name in ("cold", "kept"):
                status, took = server.ask(user)
                assert status == 200, status
                seconds[name].append(took)
    p50 = {name: statistics.median(values) for name, values in seconds.items()}
    return {
        "p50_ms": {name: round(1000 * value, 2) for name, value in p50.items()},
        "cold_over_direct": round(p50["cold"] / p50["direct"], 3),
        "kept_over_direct": round(p50["kept"] / p50["direct"], 3),
    }


def closed_loop(ask: Callable[[str], tuple[int, float]], users: Sequence[str], many: int, seconds: float) -> list:
    """Every client asks again as soon as it is answered: status and seconds of all requests, and how long it took."""
    found: list[tuple[int, float]] = []
    until = time.perf_counter() + seconds

    def client(number: int) -> None:
        dice = random.Random(number)
        while time.perf_counter() < until:
            found.append(ask(dice.choice(users)))

    threads = [threading.Thread(target=client, args=(number,)) for number in range(many)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def clients(folder: Path, served: ServedRun, users: Sequence[str], given: argparse.Namespace) -> dict[str, Any]:
    """Eight clients at once."""
    with serving(folder, given.threads) as server:
        closed_loop(server.ask, users, 8, 3)
        found = closed_loop(server.ask, users, 8, given.seconds)
    took = np.array([seconds for _, seconds in found])
    p50, p99 = np.percentile(took, [50, 99]).tolist()
    return {
        "p50_ms": round(1000 * p50, 1), "p99_ms": round(1000 * p99, 1), "p99_over_p50": round(p99 / p50, 2),
        "per_second": round(len(took) / given.seconds, 1), "errors": sum(status != 200 for status, _ in found),
    }  # fmt: skip


def batching(folder: Path, served: ServedRun, users: Sequence[str], given: argparse.Namespace) -> dict[str, Any]:
    """Requests per second of sixteen clients, answered together and one by one, without and with kept prompts."""
    rates: dict[str, float] = {}
    for kept, cache in (("cold", "0"), ("kept", "256")):
        for how, together in (("together", "16"), ("one_by_one", "1")):
            with serving(folder, given.threads, "--cache_mib", cache, "--together", together) as server:
                for user in users if kept == "kept" else users[:5]:
                    server.ask(user)
                found = closed_loop(server.ask, users, 16, given.seconds)
                assert all(status == 200 for status, _ in found)
                rates[f"{kept}_{how}"] = round(len(found) / given.seconds, 1)
    return {
        "per_second": rates,
        "cold_ratio": round(rates["cold_together"] / rates["cold_one_by_one"], 2),
        "kept_ratio": round(rates["kept_together"] / rates["kept_one_by_one"], 2),
        "kept_together_over_cold_one_by_one": round(rates["kept_together"] / rates["cold_one_by_one"], 2),
    }


def open_loop(ask: Callable[[str], tuple[int, float]], users: Sequence[str], rate: float, seconds: float) -> list:
    """Requests come at their own times (Poisson), answered or not: status and seconds of all."""
    found: list[tuple[int, float]] = []
    dice, threads = random.Random(1), []
    begun = due = time.perf_counter()
    while due < begun + seconds:
        due += dice.expovariate(rate)
        time.sleep(max(0.0, due - time.perf_counter()))
        thread = threading.Thread(target=lambda user: found.append(ask(user)), args=(dice.choice(users),))
        thread.start()
        threads.append(thread)
    for thread in threads:
        thread.join()
    return found


def load(folder: Path, served: ServedRun, users: Sequence[str], given: argparse.Namespace) -> dict[str, Any]:
    """The highest rate that is borne for long without an error; then three times the most there is, and rest."""
    tried: list[dict[str, Any]] = []
    with serving(folder, given.threads) as server:
        closed_loop(server.ask, users, 16, 5)
        most = len(closed_loop(server.ask, users, 16, given.seconds)) / given.seconds
        for share in (0.9, 0.8, 0.7, 0.6, 0.5, 0.4):
            if not borne(server, users, share * most, given.seconds):
                continue
            rate, before = share * most, server.memory_mib()
            held = open_loop(server.ask, users, rate, given.hold)
            after = server.memory_mib()
            errors = [status for status, _ in held if status != 200]
            tried.append({
                "per_second": round(rate, 1), "seconds": given.hold, "requests": len(held), "errors": errors,
                "p99_ms": round(1000 * float(np.percentile([seconds for _, seconds in held], 99)), 1),
                "memory_mib": [round(before, 1), round(after, 1)], "memory_growth": round(after / before - 1, 4),
            })  # fmt: skip
            if not errors:
                break
        calm = statistics.median(seconds for _, seconds in open_loop(server.ask, users, rate / 2, 5))
        over = open_loop(server.ask, users, 3 * most, 10)
        refused = [seconds for status, seconds in over if status == 429]
        time.sleep(1)
        recovered = statistics.median(seconds for _, seconds in open_loop(server.ask, users, rate / 2, 5))
        statuses = {str(code): sum(status == code for status, _ in over) for code in {status for status, _ in over}}
    return {
        "most_per_second": round(most, 1), "held": tried,
        "overload": statuses, "refused_p50_ms": round(1000 * statistics.median(refused), 1) if refused else None,
        "p50_ms_before_and_after_overload": [round(1000 * calm, 1), round(1000 * recovered, 1)],
    }  # fmt: skip


def borne(server: Server, users: Sequence[str], rate: float, seconds: float) -> bool:
    """Whether every request of a rate is answered, and soon."""
    found = open_loop(server.ask, users, rate, seconds)
    return all(status == 200 for status, _ in found) and float(np.percentile([took for _, took in found], 99)) < 1.0


if __name__ == "__main__":
    main()
