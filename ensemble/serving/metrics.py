"""What is counted while photos are served, in the text format of Prometheus."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

CONTENT_TYPE = CONTENT_TYPE_LATEST
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class Metrics:
    """Of one server."""

    def __init__(self, batch: int) -> None:
        """
        Args:
            batch: photos at most in a batch.
        """
        disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series for each, of no use here
        self._registry = CollectorRegistry()  # not the global one: a process may hold several servers
        registry = self._registry
        self.requests = Counter(
            "maskens_requests", "Requests by path and HTTP status.", ["path", "status"], registry=registry
        )
        self.seconds = Histogram(
            "maskens_predict_seconds",
            "From a POST /predict to its answer, uploading included.",
            buckets=SECONDS,
            registry=registry,
        )
        self.photos = Counter("maskens_photos", "Photos answered.", registry=registry)
        sizes = [2**n for n in range(batch.bit_length()) if 2**n < batch] + [batch]
        self.batches = Histogram(
            "maskens_batch_photos", "Photos that the models saw together.", buckets=sizes, registry=registry
        )
        self._queue = Gauge("maskens_queue_photos", "Photos that wait for the models.", registry=registry)

    def watch_queue(self, length: Callable[[], int]) -> None:
        """Ask for the queue's length whenever the metrics are read."""
        self._queue.set_function(length)

    def text(self) -> bytes:
        """All of it, as CONTENT_TYPE."""
        return generate_latest(self._registry)
