"""What the server counts, for Prometheus."""

from collections.abc import Callable
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
SIZES = (1, 2, 4, 8, 16, 32, 64)


class Metrics:
    """Counters of one server."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        own: Any = {"registry": self.registry, "namespace": "recbole_think"}
        self.requests = Counter("requests_total", "Requests by path and status.", ["path", "status"], **own)
        self.seconds = Histogram("request_seconds", "Seconds of a request.", ["path"], buckets=SECONDS, **own)
        self.batch_size = Histogram("batch_size", "Lists that were made together.", buckets=SIZES, **own)
        self.batch_seconds = Histogram("batch_seconds", "Seconds of a batch.", buckets=SECONDS, **own)
        self.answers = Counter("answers_total", "Lists by where they come from.", ["source"], **own)
        self.events = Counter("events_total", "Events that were kept.", **own)
        self.unknown = Counter("unknown_items_total", "Items of requests that are not in the catalogue.", **own)
        self.swaps = Counter("model_swaps_total", "Versions of the direct model taken up.", **own)

    def watch(self, name: str, what: str, value: Callable[[], Any]) -> None:
        """Show a number that is asked for when it is read."""
        Gauge(name, what, namespace="recbole_think", registry=self.registry).set_function(value)

    def seen(self, size: int, seconds: float) -> None:
        """A batch was answered."""
        self.batch_size.observe(size)
        self.batch_seconds.observe(seconds)

    def text(self) -> bytes:
        """In Prometheus' words."""
        return generate_latest(self.registry)
