"""The models in huggingface_hub's cache."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

__all__ = ["CachedModel", "cached_models"]


class CachedModel(NamedTuple):
    """A cached revision of a repository."""

    name: str  # hub:OWNER/NAME, with @COMMIT unless a branch or tag is at this revision
    revision: str  # the commit
    folder: Path
    size: int  # bytes


def cached_models(mark: str) -> Iterator[CachedModel]:
    """The cached revisions that have a file named `mark`, by name; none if huggingface_hub is missing."""
    try:
        from huggingface_hub import constants, scan_cache_dir
        from huggingface_hub.errors import CacheNotFound
    except ImportError:
        return
    try:
        repositories = scan_cache_dir(constants.HF_HUB_CACHE).repos
    except CacheNotFound:
        return
    for repository in sorted(repositories, key=lambda each: str(each.repo_id)):
        for revision in sorted(repository.revisions, key=lambda each: -each.last_modified):
            if repository.repo_type == "model" and any(file.file_name == mark for file in revision.files):
                name = f"hub:{repository.repo_id}" + ("" if revision.refs else f"@{revision.commit_hash}")
                yield CachedModel(name, revision.commit_hash, revision.snapshot_path, revision.size_on_disk)
