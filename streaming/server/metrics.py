"""Metrics for Prometheus."""

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
        self.opened = Counter("spellstream_streams_opened", "Streams admitted", ["kind"], registry=registry)
        self.refused = Counter(
            "spellstream_refused", "Streams, requests and connections refused", ["reason"], registry=registry
        )
        self.cut = Counter("spellstream_cut", "Streams ended by a limit", ["reason"], registry=registry)
        self.queue_seconds = Gauge("spellstream_queue_seconds", "Audio waiting for the engine", registry=registry)
        self.jobs = Gauge("spellstream_jobs", "Slices of uploaded files waiting for the engine", registry=registry)
        self.latency = Histogram(
            "spellstream_chunk_latency_seconds",
            "Time from the arrival of a stream's audio to its events",
            buckets=_LATENCIES,
            registry=registry,
        )
        self.step = Histogram(
            "spellstream_step_seconds", "Duration of one step of all streams", buckets=_LATENCIES, registry=registry
        )
        self.audio_seconds = Counter("spellstream_audio_seconds", "Audio of streams decoded", registry=registry)
        self.compute_seconds = Counter(
            "spellstream_compute_seconds", "Computing time spent on streams", registry=registry
        )
        self.dropped_seconds = Counter(
            "spellstream_dropped_audio_seconds",
            "Audio of live streams dropped because the engine was late",
            registry=registry,
        )
        self.real_time_factor = Gauge(
            "spellstream_real_time_factor", "Computing time per second of audio, recently", registry=registry
        )
        self.finals = Counter("spellstream_finals", "Segments finished", registry=registry)
        self.failures = Counter(
            "spellstream_failures", "Steps and spans of files that failed because of the server", registry=registry
        )
        self.requests = Counter(
            "spellstream_requests", "HTTP requests", ["method", "route", "status"], registry=registry
        )

    def text(self) -> bytes:
        """All metrics in Prometheus's text format."""
        return generate_latest(self.registry)
