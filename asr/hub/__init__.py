"""Models by name from the Hugging Face hub: `hub:OWNER/NAME@REVISION` to a verified folder in the hub's own cache."""

from asr.hub.reference import Reference, is_reference
from asr.hub.snapshot import CHECKSUMS, PICKLES, Snapshot, fetch

__all__ = ["CHECKSUMS", "PICKLES", "Reference", "Snapshot", "fetch", "is_reference"]
