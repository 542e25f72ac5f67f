"""A revision of a repository as a folder: resolved to a commit, checked, downloaded and verified.

The folder is in huggingface_hub's cache (`HF_HOME`), `models--OWNER--NAME/snapshots/COMMIT`, so that other programs
share it and `hf cache` manages it. A repository is refused before any download if a path leads out of it, or if it
contains files that the caller refuses.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from asr.errors import DependencyError, HubError
from asr.files import write_atomically
from asr.hub.listing import RemoteFile, checked, chosen, sha256
from asr.hub.reference import Reference
from asr.hub.transfer import download
from asr.terminal import byte_progress, say

__all__ = ["CHECKSUMS", "PICKLES", "Snapshot", "fetch", "require_library"]

PICKLES = ("*.pkl", "*.pickle", "*.pt", "*.pth", "*.bin", "*.ckpt", "*.joblib", "*.npy", "*.dill")
CHECKSUMS = "SHA256SUMS"  # in the format of sha256sum
_TIMEOUT_SECONDS = 10.0  # for the request that resolves a revision to a commit
_BUSY = 500  # status codes from here on are errors of the hub itself


class Snapshot(NamedTuple):
    """A folder with the chosen files of one commit."""

    folder: Path
    repository: str  # OWNER/NAME
    revision: str  # the commit, 40 hex digits

    @property
    def card(self) -> dict[str, Any]:
        """The settings at the top of README.md (`license`, `language`, …); empty without them."""
        require_library()
        from huggingface_hub import ModelCard

        path = self.folder / "README.md"
        if not path.is_file():
            return {}
        try:
            return dict(ModelCard(path.read_text(encoding="utf-8"), ignore_metadata_errors=True).data.to_dict())
        except Exception:  # any error of a YAML parser: a foreign card is only informative
            return {}


def require_library() -> None:
    """Check that huggingface_hub can be imported.

    Raises:
        DependencyError: it cannot.
    """
    try:
        import huggingface_hub  # noqa: F401
    except ImportError as error:
        raise DependencyError("the package huggingface_hub is missing: pip install 'spellstream[hub]'") from error


def fetch(name: str, *, take: Sequence[str], refuse: Sequence[str] = PICKLES, show: bool | None = None) -> Snapshot:
    """Download files of a repository, or find them in the cache.

    A commit that is completely in the cache is used without a request to the hub. A branch or tag is resolved to a
    commit by the hub; without a connection the cached commit is used, with a message.

    Args:
        name: `hub:OWNER/NAME@REVISION`; the prefix is optional, and the revision defaults to main.
        take: patterns of the paths to download, as of `fnmatch`.
        refuse: patterns, in lower case, of files that the repository must not have; pickles by default.
        show: draw a progress bar; by default on a terminal.

    Raises:
        HubError: the repository cannot be reached, does not exist or is refused, or a file has a wrong checksum.
        DependencyError: huggingface_hub is missing.
    """
    require_library()
    from httpx2 import TransportError
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

    wanted = Reference.parse(name)
    show = sys.stderr.isatty() if show is None else show
    if wanted.is_commit and (found := _complete(wanted, take)) is not None:
        return found
    try:
        return _fetched(wanted, take, refuse, show)
    except HfHubHTTPError as error:
        refused = error.response.status_code < _BUSY
        reason = _refusal(error) if refused else f"the hub answers {error.response.status_code}"
        # A commit never changes, so what was downloaded of it before may still be used.
        if refused and not (wanted.is_commit and _cached(wanted, take)):
            raise HubError(f"{wanted}: {reason}") from None
    except HFValidationError as error:
        raise HubError(f"{wanted}: {error}") from None
    except OfflineModeIsEnabled:
        reason = "HF_HUB_OFFLINE is set"
    except TransportError as error:
        reason = f"no connection to the hub ({str(error) or type(error).__name__})"
    found = _cached(wanted, take)
    if found is None:
        raise HubError(f"{wanted}: {reason}, and it is not in the cache")
    say(f"{wanted}: {reason}; using the cached revision {found.revision[:12]}")
    return found


def _fetched(wanted: Reference, take: Sequence[str], refuse: Sequence[str], show: bool) -> Snapshot:
    """The snapshot of the commit to which the hub resolves the revision; missing files are downloaded."""
    from huggingface_hub import HfApi

    api = HfApi()
    commit = api.model_info(wanted.repository, revision=wanted.revision, timeout=_TIMEOUT_SECONDS).sha
    pinned = Reference(wanted.repository, str(commit))
    if not pinned.is_commit:
        raise HubError(f"{wanted}: the hub names no commit")
    found = _complete(pinned, take)
    if found is None:
        files = checked(str(wanted), api.list_repo_tree(wanted.repository, recursive=True, revision=commit), refuse)
        found = _downloaded(pinned, chosen(files, take), take, show)

    if not wanted.is_commit:  # recorded as huggingface_hub does, so that the branch can be resolved offline
        ref = _storage(wanted) / "refs" / wanted.revision
        ref.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(ref, pinned.revision)
    return found


def _downloaded(pinned: Reference, files: list[RemoteFile], take: Sequence[str], show: bool) -> Snapshot:
    if not files:
        raise HubError(f"{pinned}: contains none of the files {', '.join(take)}")
    blobs = _storage(pinned) / "blobs"
    _download(pinned, [file for file in files if not (blobs / file.checksum).exists()], blobs, show)
    folder = _linked(pinned, take)
    for file in files:
        path = folder / file.path
        if not path.is_file() or not file.matches(path):
            raise HubError(f"{path}: differs from the file on the hub; delete it and try again")
    _check_sums(folder)
    return Snapshot(folder, pinned.repository, pinned.revision)


def _download(pinned: Reference, files: list[RemoteFile], blobs: Path, show: bool) -> None:
    from filelock import FileLock
    from huggingface_hub import hf_hub_url

    if not files:
        return
    total = sum(file.size for file in files)
    say(f"downloading hub:{pinned.repository}, revision {pinned.revision[:12]}, {total / 1e6:.1f} MB")
    lock = blobs.parent.parent / ".locks" / blobs.parent.name / "spellstream.lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(lock), byte_progress(total, show=show) as advance:
        for file in files:
            url = hf_hub_url(pinned.repository, file.path, revision=pinned.revision)
            download(url, file, blobs / file.checksum, advance)


def _linked(wanted: Reference, take: Sequence[str], local: bool = False) -> Path:
    """The folder in huggingface_hub's cache whose files link to the downloaded blobs."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    hidden = are_progress_bars_disabled()
    disable_progress_bars()
    try:
        folder = snapshot_download(
            wanted.repository, revision=wanted.revision, allow_patterns=list(take), local_files_only=local
        )
    finally:
        if not hidden:
            enable_progress_bars()
    return Path(folder)


def _complete(pinned: Reference, take: Sequence[str]) -> Snapshot | None:
    """The snapshot of a commit in the cache, if all of its files are known to be there.

    Another program may have downloaded single files of it.
    """
    from huggingface_hub import get_cached_repo_tree
    from huggingface_hub.errors import CachedRepoTreeNotFoundError

    try:
        get_cached_repo_tree(pinned.repository, revision=pinned.revision)
    except CachedRepoTreeNotFoundError:
        return None
    return _cached(pinned, take)


def _cached(wanted: Reference, take: Sequence[str]) -> Snapshot | None:
    """The snapshot in the cache; if the cache has no listing of its files, some may be missing."""
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        folder = _linked(wanted, take, local=True)
    except LocalEntryNotFoundError:
        return None
    if not chosen([RemoteFile(path.relative_to(folder).as_posix(), 0, "") for path in folder.rglob("*")], take):
        return None
    _check_sums(folder)
    return Snapshot(folder, wanted.repository, folder.name)


def _check_sums(folder: Path) -> None:
    """Compare the files of a folder with its own list of checksums, if it has one.

    Raises:
        HubError: an existing file differs from its listed checksum.
    """
    path = folder / CHECKSUMS
    if not path.is_file():
        return
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        listed = re.fullmatch(r"([0-9a-f]{64}) [ *]([\w.-]+)", line)
        if listed is None:
            raise HubError(f"{path}: not a list of SHA-256 checksums")
        file = folder / listed[2]
        if file.is_file() and sha256(file) != listed[1]:
            raise HubError(f"{file}: does not match its checksum in {CHECKSUMS}")


def _storage(wanted: Reference) -> Path:
    """The folder of a repository in huggingface_hub's cache."""
    from huggingface_hub import constants

    cache = os.path.expanduser(constants.HF_HUB_CACHE)  # noqa: PTH111 - pathlib's raises for a user without a home
    return Path(cache, f"models--{wanted.repository.replace('/', '--')}")


def _refusal(error: Any) -> str:
    """The reason why the hub refuses a request, in a few words."""
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    if isinstance(error, GatedRepoError):
        return "access must be requested on the hub, and a token set (hf auth login)"
    if isinstance(error, RepositoryNotFoundError):
        return "the hub has no such repository, or it is private (hf auth login)"
    if isinstance(error, RevisionNotFoundError):
        return "the repository has no such revision"
    return f"the hub answers {error.response.status_code}"
