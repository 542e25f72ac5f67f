"""Damaged and unusual files in every container: cuts, late tracks, gaps, several tracks, chained streams."""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest

from asr.audio import SAMPLE_RATE, blocks, load
from asr.audio.decode import duration_seconds
from asr.errors import AudioError
from tests.support.containers import KINDS, SECONDS, bursts, ffmpeg, needs_ffmpeg
from tests.support.sounds import reason, tone, write

TELLING = [kind.suffix for kind in KINDS.values() if kind.tells_length]


def kept(path: Path) -> tuple[float, str]:
    """The readable seconds of a damaged file, and the error."""
    samples = 0
    try:
        for block in blocks(path, keep_damaged=True):
            samples += len(block)
    except AudioError as error:
        return samples / SAMPLE_RATE, error.reason
    return samples / SAMPLE_RATE, "nothing"


def first_sound(path: Path) -> float:
    """The time of the first sound, in seconds."""
    return int((load(path).abs() > 0.02).int().argmax()) / SAMPLE_RATE


@pytest.mark.parametrize("suffix", KINDS)
def test_whole_files_are_read_whole(originals: dict[str, Path], suffix: str) -> None:
    path = originals[suffix]
    assert len(load(path)) / SAMPLE_RATE == pytest.approx(SECONDS, abs=0.15)
    told = duration_seconds(path)
    assert told is None or not KINDS[suffix].tells_length or told == pytest.approx(SECONDS, abs=0.15)


@pytest.mark.parametrize("suffix", TELLING)
def test_a_file_cut_short_is_an_error_in_every_container(
    originals: dict[str, Path], tmp_path: Path, suffix: str
) -> None:
    """A truncated mkv, webm, avi, wma, wv, tta, caf, w64, ogg, opus or mp3 file was once read without an error."""
    path = Path(shutil.copy(originals[suffix], tmp_path / f"cut.{suffix}"))
    os.truncate(path, path.stat().st_size * 6 // 10)
    seconds, message = kept(path)
    assert "is damaged or cut short" in message
    assert 0.3 * SECONDS < seconds < 0.8 * SECONDS
    assert float(message.split(": ")[1].split()[0]) == pytest.approx(seconds, abs=0.06)


@pytest.mark.parametrize("suffix", TELLING)
def test_a_file_that_goes_on_as_another_is_an_error_or_as_long_as_it_says(
    originals: dict[str, Path], tmp_path: Path, suffix: str
) -> None:
    """AVI and WMA files much longer than their headers declare were read only up to the foreign bytes."""
    content = originals[suffix].read_bytes()
    path = tmp_path / f"spliced.{suffix}"
    path.write_bytes(content[: len(content) * 6 // 10] + np.random.default_rng(0).bytes(2 * len(content)))
    seconds, message = kept(path)
    assert seconds > SECONDS - 0.3 or "is damaged or cut short" in message


@pytest.mark.parametrize("suffix", ["ogg", "opus"])
def test_bytes_between_the_pages_of_ogg_are_an_error(originals: dict[str, Path], tmp_path: Path, suffix: str) -> None:
    """The decoder ended silently at bytes outside any page: after a cut in a page header, or a copied part."""
    whole = originals[suffix].read_bytes()
    half, last = len(whole) // 2, whole.rindex(b"OggS")
    foreign = np.random.default_rng(0).bytes(1000)
    broken = [whole[:half] + whole[half + 1500 :], whole[:half] + foreign + whole[half:], whole[:half] + foreign]
    path = tmp_path / f"a.{suffix}"
    for content in (*broken, *(whole[: last + count] for count in (1, 3, 5, 20, 27, 28))):
        path.write_bytes(content)
        assert "is damaged or cut short" in kept(path)[1]
    for behind in (b"TAG" + bytes(125), bytes(5000)):
        path.write_bytes(whole + behind)
        assert kept(path)[1] == "nothing"


@needs_ffmpeg
@pytest.mark.parametrize("layout", ["5.1", "7.1", "hexadecagonal"])
def test_files_of_many_channels_are_read(tmp_path: Path, layout: str) -> None:
    """From 8 channels on, memory beyond the planes was read as further planes: a valid 7.1 file ended the process."""
    path = tmp_path / "many.m4a"
    filters = f"anoisesrc=duration=1:amplitude=0.3,aformat=channel_layouts={layout}"
    ffmpeg("-f", "lavfi", "-i", filters, "-c:a", "aac", path)
    waveform = load(path)
    assert len(waveform) / SAMPLE_RATE == pytest.approx(1.0, abs=0.1)
    assert 0.01 < waveform.abs().max() <= 1.0


def test_damage_of_one_file_is_not_told_of_the_next(originals: dict[str, Path], tmp_path: Path) -> None:
    """A repeated decoder message was reported again while the next file was read."""
    content, path = bytearray(originals["opus"].read_bytes()), tmp_path / "a.opus"
    for tenth in (3, 5, 7):
        content[len(content) * tenth // 10] ^= 0xFF
    path.write_bytes(content)
    assert "is damaged or cut short" in kept(path)[1]
    assert kept(originals["avi"])[1] == kept(originals["m4a"])[1] == "nothing"


def test_an_edit_list_that_leaves_nothing_is_damage(originals: dict[str, Path], tmp_path: Path) -> None:
    """One flipped bit in an m4a's time scale cut its edit from 3 s to 0.4 ms, and only that was read."""
    content = bytearray(originals["m4a"].read_bytes())
    content[content.index(b"mvhd") + 17] |= 0x80
    path = tmp_path / "a.m4a"
    path.write_bytes(content)
    seconds, message = kept(path)
    assert seconds < 0.5
    assert "is damaged or cut short" in message


VIDEO = {"mp4": "mpeg4", "mov": "mpeg4", "mkv": "mpeg4", "ts": "mpeg2video", "flv": "flv"}


@needs_ffmpeg
@pytest.mark.parametrize("suffix", VIDEO)
def test_a_track_that_starts_late_begins_with_silence(tmp_path: Path, suffix: str) -> None:
    """Subtitles were early by the delay of the track."""
    source, path = write(tmp_path / "a.wav", bursts(2.0)), tmp_path / f"late.{suffix}"
    picture = ["-f", "lavfi", "-i", "color=size=32x32:rate=25:duration=4"]
    codecs = ["-c:v", VIDEO[suffix], "-c:a", "mp3" if suffix == "flv" else "aac", "-ar", 44_100]
    ffmpeg(*picture, "-itsoffset", 1.5, "-i", source, "-map", "0:v", "-map", "1:a", *codecs, path)
    assert first_sound(path) == pytest.approx(1.5, abs=0.1)
    assert len(load(path)) / SAMPLE_RATE == pytest.approx(3.5, abs=0.15)


@pytest.mark.parametrize("suffix", ["m4a", "mkv", "webm", "ts", "flv"])
def test_missing_packets_are_silence(originals: dict[str, Path], tmp_path: Path, suffix: str) -> None:
    """After a network fault, all later words had too early times."""
    path = tmp_path / f"gap.{suffix}"
    dropped = "noise=amount=0:drop=gte(pts*tb-START\\,0.5)*lt(pts*tb-START\\,1.25)"
    start = "1.4" if suffix == "ts" else "0"
    ffmpeg("-copyts", "-i", originals[suffix], "-c", "copy", "-bsf:a", dropped.replace("START", start), path)
    waveform = load(path)
    assert len(waveform) / SAMPLE_RATE == pytest.approx(SECONDS, abs=0.15)
    assert waveform[int(0.7 * SAMPLE_RATE) : int(1.15 * SAMPLE_RATE)].abs().max() < 1e-3
    assert waveform[int(1.5 * SAMPLE_RATE) :].abs().max() > 0.1


@pytest.mark.parametrize("suffix", ["ogg", "opus", "mp3", "flac", "aac"])
def test_streams_one_after_another_are_all_read(originals: dict[str, Path], tmp_path: Path, suffix: str) -> None:
    """Only the first stream of chained Ogg files and of concatenated MP3 files was read."""
    path = tmp_path / f"three.{suffix}"
    path.write_bytes(3 * originals[suffix].read_bytes())
    assert len(load(path)) / SAMPLE_RATE == pytest.approx(3 * SECONDS, abs=0.4)


def test_what_is_before_and_after_a_damaged_stretch_is_kept(originals: dict[str, Path], tmp_path: Path) -> None:
    """A whole MP3 file was rejected by libsndfile for a stretch of zeros."""
    content = bytearray(originals["mp3"].read_bytes())
    start, end = len(content) * 4 // 10, len(content) * 6 // 10
    content[start:end] = bytes(end - start)
    path = tmp_path / "damaged.mp3"
    path.write_bytes(content)
    seconds, message = kept(path)
    assert 0.6 * SECONDS < seconds < 0.9 * SECONDS
    assert float(message.split(": ")[1].split()[0]) == pytest.approx(seconds, abs=0.06)


def test_nothing_of_the_decoders_reaches_the_terminal(
    originals: dict[str, Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for suffix in ("mp3", "m4a", "mkv", "ogg", "ts"):
        content = bytearray(originals[suffix].read_bytes())
        content[len(content) // 2 : len(content) // 2 + 500] = bytes(500)
        path = tmp_path / f"damaged.{suffix}"
        path.write_bytes(content)
        with contextlib.suppress(AudioError):
            load(path)
    assert capfd.readouterr() == ("", "")


def wav(data: bytes, declared: int, behind: bytes = b"", format_tag: int = 1) -> bytes:
    """A 16-bit mono WAV file at 16 kHz whose data chunk declares the given length."""
    form = struct.pack("<4sIHHIIHH", b"fmt ", 16, format_tag, 1, 16_000, 32_000, 2, 16)
    head = b"RIFF" + struct.pack("<I", (36 + declared) & 0xFFFF_FFFF) + b"WAVE" + form
    return head + struct.pack("<4sI", b"data", declared) + data + behind


@pytest.mark.parametrize(
    ("declared", "behind", "expected"),
    [
        (0, b"", 16_000),  # the recorder was killed
        (9_600, b"", 16_000),  # wrapped at 4 GiB, or never updated
        (32_000, b"", 16_000),
        (32_000, b"LIST\x04\x00\x00\x00INFO", 16_000),
        (32_000, b"ID3" + bytes(5_000), 16_000),
        (32_000, bytes(512), 16_000),
        (0xFFFF_FFFF - 36, b"", 16_000),
        (0x7FFF_FFFF - 36, b"", 16_000),
    ],
)
def test_a_wav_file_is_read_to_its_end(tmp_path: Path, declared: int, behind: bytes, expected: int) -> None:
    samples = (bursts(1.0) * 32_767).astype("<i2")
    path = tmp_path / "a.wav"
    path.write_bytes(wav(samples.tobytes(), declared, behind))
    waveform = load(path)
    assert len(waveform) == expected
    assert np.array_equal(waveform.numpy(), samples.astype(np.float32) / 32_768)


def test_a_wav_file_without_samples_is_empty(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(wav(b"", 0, b"LIST\x04\x00\x00\x00INFO"))
    assert "holds no samples" in reason(path)


@needs_ffmpeg
def test_the_length_of_mp3_in_wav_is_an_estimate(tmp_path: Path) -> None:
    source, path = write(tmp_path / "a.wav", bursts(2.0)), tmp_path / "mp3.wav"
    ffmpeg("-i", source, "-c:a", "libmp3lame", path)
    assert len(load(path)) / SAMPLE_RATE == pytest.approx(2.0, abs=0.15)


@pytest.fixture(scope="module")
def tracks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tone of 440 Hz in French, one of 1000 Hz in English and one of 2000 Hz in German."""
    folder = tmp_path_factory.mktemp("tracks")
    inputs = [("-i", write(folder / f"{hertz}.wav", tone(1.0, hertz=hertz))) for hertz in (440, 1000, 2000)]
    names = ("fre", "eng", "ger")
    maps = [("-map", f"{n}:a", f"-metadata:s:a:{n}", f"language={name}") for n, name in enumerate(names)]
    path = folder / "tracks.mkv"
    ffmpeg(*itertools.chain(*inputs), *itertools.chain(*maps), "-c:a", "flac", path)
    return path


def hertz(path: Path, track: int | str | None) -> int:
    waveform = np.concatenate([block.numpy() for block in blocks(path, track=track)])
    spectrum = np.abs(np.fft.rfft(waveform))
    return round(float(np.fft.rfftfreq(len(waveform), 1 / SAMPLE_RATE)[spectrum.argmax()]))


@needs_ffmpeg
@pytest.mark.parametrize(
    ("track", "expected"),
    [(None, 1000), (1, 440), ("1", 440), ("fre", 440), ("3", 2000), ("GER", 2000), ("de", 2000), ("fra", 440)],
)
def test_a_track_is_chosen_by_number_or_language(
    tracks: Path, track: int | str | None, expected: int, caplog: pytest.LogCaptureFixture
) -> None:
    """The first track, a tone, was transcribed where the second held the words, without a warning."""
    with caplog.at_level(logging.WARNING):
        assert hertz(tracks, track) == expected
    said = "has audio tracks 1 (fre), 2 (eng), 3 (ger): track 2 is read (--track chooses another)"
    assert (said in caplog.text) == (track is None)


@needs_ffmpeg
def test_a_track_that_is_not_there_is_named(tracks: Path, tmp_path: Path) -> None:
    for track in (4, "spa", 0):
        with pytest.raises(AudioError, match=r"has no audio track .*: it has 1 \(fre\), 2 \(eng\), 3 \(ger\)"):
            next(blocks(tracks, track=track))
    single = write(tmp_path / "a.wav", tone())
    assert len(next(blocks(single, track="eng"))) > 0  # the file does not name its language
    for number in (2, " 2 ", 0, "0"):  # 0 was accepted as the first track here, but refused in a container
        with pytest.raises(AudioError, match=f"has a single audio track: there is no track {str(number).strip()}$"):
            next(blocks(single, track=number))
