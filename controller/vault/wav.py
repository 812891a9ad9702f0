"""WAV headers for audio of a known length; nothing has to be written again at the end.

Up to 4 GiB it is plain WAV (RIFF, 44 bytes before the audio). Beyond that RIFF's 32-bit sizes do
not hold, and it is RF64 (EBU Tech 3306, 80 bytes), which ffmpeg, SoX and Audacity read.
"""

from __future__ import annotations

import struct

from controller.errors import VaultError

SAMPLE_BYTES = 2
_PCM = 1
_RIFF_MAX_BYTES = (1 << 32) - 1
_UNKNOWN = 0xFFFFFFFF  # RF64: the size stands in the ds64 chunk


def frame_bytes(channels: int) -> int:
    """Bytes of one sample on every channel."""
    return SAMPLE_BYTES * channels


def wav_header(audio_bytes: int, *, rate_hz: int, channels: int) -> bytes:
    """What stands before `audio_bytes` of s16le. Raises VaultError for a part of a frame."""
    frame = frame_bytes(channels)
    if audio_bytes < 0 or audio_bytes % frame:
        raise VaultError(f"{audio_bytes} bytes are no whole frames of {frame}")
    form = struct.pack(
        "<4sIHHIIHH",
        b"fmt ", 16, _PCM, channels, rate_hz, rate_hz * frame, frame, 8 * SAMPLE_BYTES,
    )  # fmt: skip
    riff_bytes = 4 + len(form) + 8 + audio_bytes
    if riff_bytes <= _RIFF_MAX_BYTES:
        head = struct.pack("<4sI4s", b"RIFF", riff_bytes, b"WAVE")
        return head + form + struct.pack("<4sI", b"data", audio_bytes)
    ds64_bytes = 28
    riff_bytes += 8 + ds64_bytes
    sizes = struct.pack(
        "<4sIQQQI", b"ds64", ds64_bytes, riff_bytes, audio_bytes, audio_bytes // frame, 0
    )
    head = struct.pack("<4sI4s", b"RF64", _UNKNOWN, b"WAVE")
    return head + sizes + form + struct.pack("<4sI", b"data", _UNKNOWN)
