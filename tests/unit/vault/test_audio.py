"""WAV headers as other programs read them; peaks as a plain loop finds them."""

from __future__ import annotations

import io
import shutil
import struct
import subprocess
import wave
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.errors import VaultError
from controller.vault.peaks import peaks
from controller.vault.wav import wav_header


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("rate_hz", [8000, 16000, 48000])
def test_pythons_wave_reads_it(channels: int, rate_hz: int) -> None:
    audio = bytes(range(200)) * channels
    header = wav_header(len(audio), rate_hz=rate_hz, channels=channels)
    with wave.open(io.BytesIO(header + audio)) as read:
        assert (read.getnchannels(), read.getframerate(), read.getsampwidth()) == (
            channels,
            rate_hz,
            2,
        )
        assert read.readframes(1000) == audio


def test_the_limit_of_riff_is_kept_to_the_byte() -> None:
    largest = (1 << 32) - 1 - 36
    largest -= largest % 4
    header = wav_header(largest, rate_hz=8000, channels=2)
    assert header[:4] == b"RIFF"
    assert struct.unpack("<I", header[4:8])[0] == len(header) + largest - 8
    header = wav_header(largest + 4, rate_hz=8000, channels=2)
    assert header[:4] == b"RF64"
    riff, data, frames = struct.unpack("<QQQ", header[20:44])
    assert (riff, data, frames) == (len(header) + largest + 4 - 8, largest + 4, largest // 4 + 1)


@pytest.mark.skipif(shutil.which("ffprobe") is None, reason="ffprobe is not installed")
def test_ffmpeg_knows_how_long_a_file_beyond_4_gib_is(tmp_path: Path) -> None:
    audio_bytes = 5 << 30
    path = tmp_path / "long.wav"
    with path.open("wb") as file:
        header = wav_header(audio_bytes, rate_hz=8000, channels=2)
        file.write(header)
        file.truncate(len(header) + audio_bytes)  # a hole: it takes no room
    shown = "format=duration:stream=channels"
    asked = f"ffprobe -v error -show_entries {shown} -of default=nk=1:nw=1 {path}".split()
    said = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.split()
    assert said[0] == "2"
    assert float(said[1]) == pytest.approx(audio_bytes / 32000)


@pytest.mark.parametrize("audio_bytes", [1, 2, 3, -4])
def test_a_part_of_a_frame_is_refused(audio_bytes: int) -> None:
    with pytest.raises(VaultError, match="whole frames"):
        wav_header(audio_bytes, rate_hz=8000, channels=2)


@given(
    st.lists(st.integers(-32768, 32767), max_size=60),
    st.integers(1, 2),
    st.integers(1, 9),
    st.integers(1, 7),
)
def test_peaks_are_those_of_a_plain_loop(
    samples: list[int], channels: int, columns: int, cut: int
) -> None:
    frames = len(samples) // channels
    samples = samples[: frames * channels]
    audio = struct.pack(f"<{len(samples)}h", *samples)
    expected = [[0] * channels for _ in range(columns)]
    for frame in range(frames):
        for channel in range(channels):
            column = expected[frame * columns // frames]
            column[channel] = max(column[channel], abs(samples[frame * channels + channel]))
    parts = [audio[i : i + cut] for i in range(0, len(audio), cut)]
    seen = peaks(parts, frames, channels=channels, columns=columns)
    assert seen == [tuple(column) for column in expected]


def test_peaks_stop_where_the_audio_does() -> None:
    loud = struct.pack("<4h", 100, -200, 300, -400)
    half = [(100, 200), (300, 400), (0, 0), (0, 0)]
    assert peaks([loud], 4, channels=2, columns=4) == half  # of four frames two came
    assert peaks([loud * 2], 2, channels=2, columns=1) == [(300, 400)]
    assert peaks([], 0, channels=1, columns=2) == [(0,), (0,)]
    with pytest.raises(VaultError):
        peaks([], 1, channels=1, columns=0)
