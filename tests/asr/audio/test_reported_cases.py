"""Files from bug reports of other programs, where they are available.

The other tests in this folder generate files with the same faults in more containers, rates and lengths. These are the
original recordings, of 12 kinds, each with the length of a full decode.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from asr.archive.sources import find
from asr.audio import SAMPLE_RATE, blocks
from asr.errors import AudioError

# File name, seconds, whether speech begins at 5 s rather than at once, and the error message, if any.
CASES = (
    ("01-raw-extension-traceback/a.raw", 0.0, False, "listen --stdin"),
    ("01-raw-extension-traceback/b.wav", 5.22, False, None),
    ("01-raw-extension-traceback/c.raw", 5.22, False, None),
    *(
        (f"02-truncated-silently-whole/cut.{kind}", seconds, False, "damaged or cut short")
        for kind, seconds in (
            *(("avi", 17.3), ("mkv", 17.1), ("mp3", 17.3), ("ogg", 16.2), ("opus", 17.0)),
            *(("tta", 16.7), ("webm", 17.0), ("wma", 17.3), ("wv", 16.0)),
        )
    ),
    ("03-audio-starts-late-subtitles-early/delay5.mkv", 33.93, True, None),
    ("03-audio-starts-late-subtitles-early/delay5.mp4", 33.93, True, None),
    ("04-timestamp-gap-drift/gap.mkv", 28.91, False, None),
    ("04-timestamp-gap-drift/gap.webm", 28.91, False, None),
    ("05-chained-ogg-concatenated-mp3/cat3.mp3", 15.9, False, None),
    ("05-chained-ogg-concatenated-mp3/cat3.ogg", 15.7, False, None),
    ("05-chained-ogg-concatenated-mp3/cat3.opus", 15.7, False, None),
    ("06-wav-unfinished-header/avaudiofile.wav", 5.22, False, None),
    ("06-wav-unfinished-header/data0.wav", 5.22, False, None),
    ("07-wav-over-4GiB-wrapped-size/wrapped_size.wav", 28.9, False, None),
    ("08-mp3-in-wav-refused/mp3in.wav", 5.33, False, None),
    ("09-mp3-bad-spot-loses-all/zero_x.mp3", 23.0, False, "23.04 s of 28.98 s"),
    ("10-phase-inverted-stereo-empty/phase_inv.wav", 5.22, False, None),
    ("16-several-audio-tracks/two_tracks.mp4", 28.93, False, None),
    ("17-level-float-scale/float_int16range.wav", 5.22, False, None),
    ("17-level-float-scale/quiet50.wav", 5.22, False, None),
)


@pytest.fixture
def cases(speech_dir: Path) -> Path:
    folder = speech_dir.parent / "cases"
    if not folder.is_dir():
        pytest.skip(f"no reported cases: {folder} is not a folder")
    return folder


@pytest.mark.parametrize(("name", "seconds", "late", "error"), CASES, ids=[name for name, *_ in CASES])
def test_what_was_reported_is_read_whole_or_named(
    cases: Path, name: str, seconds: float, late: bool, error: str | None
) -> None:
    """Each file once gave a short, shifted or empty transcript, or a traceback, with exit status 0."""
    read, said = [torch.zeros(0)], None
    try:
        read.extend(block.clone() for block in blocks(cases / name))
    except AudioError as caught:
        said = str(caught)
    waveform = torch.cat(read)

    assert len(waveform) / SAMPLE_RATE == pytest.approx(seconds, abs=0.1)
    assert (said is None) == (error is None), said
    assert error is None or (error in str(said) and str(cases / name) in str(said))
    if len(waveform):
        start = int((waveform.abs() > 0.01).nonzero()[0]) / SAMPLE_RATE
        assert start == pytest.approx(5.17 if late else 0.17, abs=0.15)
        assert 0.05 < float(waveform.abs().max()) <= 1.5


def test_a_folder_is_searched_for_all_that_can_be_read(cases: Path) -> None:
    folder = cases / "11-folder-skips-readable-files" / "mixed"
    audio = {path.name for path in folder.iterdir() if path.suffix in (".wav", ".ts", ".weba")}
    assert len(audio) > 2
    assert {Path(str(found)).name for found in find([str(folder)])} >= audio
