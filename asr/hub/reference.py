"""Names of repositories: `hub:OWNER/NAME`, with `@REVISION` for a branch, a tag or a commit."""

from __future__ import annotations

import re
from dataclasses import dataclass

from asr.errors import HubError

__all__ = ["Reference", "is_reference"]

_PREFIX = "hub:"
_MAIN = "main"
_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}", re.ASCII)
_REVISION = re.compile(r"[A-Za-z0-9][\w./-]{0,199}", re.ASCII)
_COMMIT = re.compile(r"[0-9a-f]{40}")


def is_reference(name: object) -> bool:
    """Whether the name of a model is a repository rather than a folder."""
    return str(name).startswith(_PREFIX)


@dataclass(frozen=True)
class Reference:
    """A repository and a revision of it."""

    repository: str  # OWNER/NAME
    revision: str = _MAIN

    @classmethod
    def parse(cls, name: str) -> Reference:
        """Parse `hub:OWNER/NAME@REVISION`; prefix and revision are optional.

        Raises:
            HubError: it is not of this form.
        """
        repository, at, revision = name.removeprefix(_PREFIX).partition("@")
        if not _REPOSITORY.fullmatch(repository) or ".." in repository or "--" in repository:
            raise HubError(f"{name}: not the name of a repository; expected hub:OWNER/NAME")
        if at and (not _REVISION.fullmatch(revision) or ".." in revision):
            raise HubError(f"{name}: no valid revision after @; expected a branch, a tag or a commit")
        return cls(repository, revision if at else _MAIN)

    @property
    def is_commit(self) -> bool:
        """Whether the revision is a commit, which never changes."""
        return _COMMIT.fullmatch(self.revision) is not None

    def __str__(self) -> str:
        return f"{_PREFIX}{self.repository}" + ("" if self.revision == _MAIN else f"@{self.revision}")
