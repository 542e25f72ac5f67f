"""Connection to Ray: addresses, time limits, and suppression of the library's output."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import warnings
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

from asr.errors import ClusterError

__all__ = ["configure_data", "connect", "last_line"]

CONNECT_SECONDS = 10.0
LOCAL_STORE_BYTES = 128 << 20  # paths and transcripts are small


def connect(address: str, local_cores: int) -> None:
    """Join the cluster at `address` (see `Cluster`), or start one on this machine with `local_cores`.

    Raises:
        ClusterError: there is no cluster at that address, or it cannot be used.
        ModuleNotFoundError: Ray is not installed.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", ".")  # workers' output would mix with the transcripts
    place: dict[str, Any] = {"address": address}
    if address == "local":
        place |= {"num_cpus": local_cores, "include_dashboard": False, "object_store_memory": LOCAL_STORE_BYTES}
    elif address != "auto":
        # By default Ray tries twenty times, which takes a quarter of an hour.
        os.environ.setdefault("RAY_NUM_REDIS_GET_RETRIES", "1")
        os.environ.setdefault("RAY_gcs_server_request_timeout_seconds", f"{CONNECT_SECONDS:.0f}")
        _knock(address)
    import ray
    import ray.data

    try:
        with warnings.catch_warnings(), _quiet():
            warnings.simplefilter("ignore")
            ray.init(**place, log_to_driver=False, logging_level=logging.CRITICAL)
    except Exception as error:  # Ray's errors have no common class
        reason = last_line(error)
        if "AuthenticationError" in f"{type(error)} {error.__cause__}":
            reason = "it asks for a token (set RAY_AUTH_MODE=token, and see Ray's pages on token authentication)"
        raise ClusterError(f"{address}: no Ray cluster can be used there: {reason}") from error


def _knock(address: str) -> None:
    """Fail at once, with the reason, if nothing listens: Ray would wait long and report little."""
    if "://" in address:
        raise ClusterError(f"{address}: Ray Client is not supported; run it on a node (auto), or by ray job submit")
    try:
        where = urlsplit(f"//{address}")
        host, port = where.hostname, where.port
    except ValueError:
        host, port = None, None
    if host is None or port is None:
        raise ClusterError(f"{address}: not the address of a Ray cluster; expected local, auto or HOST:PORT")
    try:
        socket.create_connection((host, port), CONNECT_SECONDS).close()
    except OSError as error:
        raise ClusterError(f"{address}: cannot be reached: {error.strerror or error}") from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Discard standard error, to which Ray's own threads write while they connect."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def configure_data(engines: int) -> None:
    """Quiet Ray Data, and let it wait for long tasks."""
    import ray.data

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.execution_no_progress_timeout_s = -1  # a task may hold hours of audio, and the cluster may be busy
    context.max_consecutive_actor_init_deaths = engines  # some nodes may be broken; if all are, the run ends
    for handler in logging.getLogger("ray.data").handlers:
        if isinstance(handler, logging.StreamHandler) and not isinstance(handler, logging.FileHandler):
            handler.setLevel(logging.CRITICAL)  # the log file has everything


def last_line(error: BaseException) -> str:
    """The last line of an error's message: in a remote traceback, the error itself."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
