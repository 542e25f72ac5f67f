"""Models from the Hugging Face hub: `hub:OWNER/NAME@REVISION` → a verified folder in huggingface_hub's cache."""

from asr.hub.reference import Reference, is_reference
from asr.hub.snapshot import CHECKSUMS, PICKLES, Snapshot, fetch

__all__ = ["CHECKSUMS", "PICKLES", "Reference", "Snapshot", "fetch", "is_reference"]
