"""What a server tells Prometheus."""

from __future__ import annotations

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)

__all__ = ["Metrics"]

_LATENCIES = (0.01, 0.02, 0.04, 0.08, 0.12, 0.16, 0.2, 0.25, 0.3, 0.4, 0.6, 1.0, 2.0, 5.0)


class Metrics:
    """Counters and gauges of one server, in a registry of their own: a process may run several servers."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        self.connections = Gauge("spellstream_connections", "Open connections, idle ones included", registry=registry)
        self.streams = Gauge("spellstream_streams", "Open streams", ["kind"], registry=registry)
        self.opened = Counter("spellstream_streams_opened", "Streams that were admitted", ["kind"], registry=registry)
        self.refused = Counter(
            "spellstream_refused", "Streams, requests and connections that were refused", ["reason"], registry=registry
        )
        self.cut = Counter("spellstream_cut", "Streams that were ended by a limit", ["reason"], registry=registry)
        self.queue_seconds = Gauge("spellstream_queue_seconds", "Audio that waits to be heard", registry=registry)
        self.jobs = Gauge("spellstream_jobs", "Pieces of files that wait for the model", registry=registry)
        self.latency = Histogram(
            "spellstream_chunk_latency_seconds",
            "From when audio of a stream was there to when it was heard and its events were out",
            buckets=_LATENCIES,
            registry=registry,
        )
        self.step = Histogram(
            "spellstream_step_seconds", "One step of all streams that had audio", buckets=_LATENCIES, registry=registry
        )
        self.audio_seconds = Counter("spellstream_audio_seconds", "Audio of streams that was heard", registry=registry)
        self.compute_seconds = Counter("spellstream_compute_seconds", "Time spent on streams", registry=registry)
        self.dropped_seconds = Counter(
            "spellstream_dropped_audio_seconds",
            "Audio of live streams that was dropped unheard, as the engine was late",
            registry=registry,
        )
        self.real_time_factor = Gauge(
            "spellstream_real_time_factor", "Computing for a second of audio, over the last seconds", registry=registry
        )
        self.finals = Counter("spellstream_finals", "Segments that were finished", registry=registry)
        self.failures = Counter(
            "spellstream_failures", "Steps and pieces of files that failed for a fault of the server", registry=registry
        )
        self.requests = Counter(
            "spellstream_requests", "HTTP requests", ["method", "route", "status"], registry=registry
        )

    def text(self) -> bytes:
        """In Prometheus's own format."""
        return generate_latest(self.registry)
