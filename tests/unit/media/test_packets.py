"""Packets that real PBXs sent, and what hostile ones may look like.

tests/data/rtp: each file is one second of one direction of a call through Asterisk 22.10 or
FreeSWITCH 1.11 (GCM), 60 UDP payloads, each after its length as two bytes.
"""

from __future__ import annotations

import random
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.media.packets import PACKETS_MIN, Look, look, worst

DATA = Path(__file__).parents[2] / "data" / "rtp"
TAGS = {"srtp-aes128-80": 10, "srtp-aes128-32": 4, "srtp-gcm256": 16}


def recorded(name: str) -> list[bytes]:
    data, packets = (DATA / f"{name}.rtp").read_bytes(), []
    while data:
        (length,) = struct.unpack_from("!H", data)
        packets.append(data[2 : 2 + length])
        data = data[2 + length :]
    return packets


def rtp(payloads: list[bytes], kind: int = 0, ssrc: int = 7) -> list[bytes]:
    head = [struct.pack("!BBHII", 0x80, kind, n, n * 160, ssrc) for n in range(len(payloads))]
    return [h + p for h, p in zip(head, payloads, strict=True)]


def noise(packets: int, length: int, seed: int = 1) -> list[bytes]:
    source = random.Random(seed)
    return [source.randbytes(length) for _ in range(packets)]


@pytest.mark.parametrize("name", ["clear-ulaw-speech", "clear-ulaw-speech-received"])
def test_recorded_speech_is_clear(name: str) -> None:
    assert look(recorded(name)).wire == "clear"


@pytest.mark.parametrize(("name", "tag_bytes"), TAGS.items())
def test_recorded_srtp_is_encrypted_and_shows_its_tag(name: str, tag_bytes: int) -> None:
    seen = look(recorded(name))
    assert (seen.wire, seen.tag_bytes, seen.packets) == ("encrypted", tag_bytes, 60)


@pytest.mark.parametrize("byte", [0xFF, 0xD5, 0x7F, 0x00])
def test_silence_is_clear(byte: int) -> None:
    assert look(rtp([bytes([byte]) * 160] * 50)).wire == "clear"


def test_a_codec_with_a_header_byte_is_clear_however_well_it_packs() -> None:
    """As Opus: its first byte says how it is coded, the rest is close to noise."""
    assert look(rtp([b"\x78" + n for n in noise(60, 120)], kind=111)).wire == "clear"


def test_one_clear_stretch_among_noise_is_clear() -> None:
    mixed = recorded("srtp-aes128-80")[:40] + recorded("clear-ulaw-speech")[:20]
    renumbered = rtp([packet[12:] for packet in mixed])
    assert look(renumbered).wire == "clear"


@pytest.mark.parametrize("seed", range(200))
def test_noise_is_never_called_clear(seed: int) -> None:
    assert look(rtp(noise(60, 170, seed))).wire == "encrypted"


def test_few_packets_prove_nothing() -> None:
    assert look(recorded("srtp-aes128-80")[: PACKETS_MIN - 1]).wire == "not checked"
    assert look(recorded("srtp-aes128-80")[:1] * 100).wire == "not checked"  # one, repeated
    assert look([]).wire == "not checked"


def test_what_is_no_rtp_is_not_counted() -> None:
    stun = [b"\x00\x01" + bytes(60)] * 50
    rtcp = [b"\x80\xc8" + bytes(60)] * 50
    short = rtp([b"\x05\x00\x00\xa0"] * 50, kind=101)
    assert look(stun + rtcp + short).wire == "not checked"
    assert look(recorded("srtp-aes128-80") + stun + rtcp + short).wire == "encrypted"


def test_header_extension_and_csrc_are_no_payload() -> None:
    """A constant extension before noise: only the noise is judged."""
    packets = []
    for n, payload in enumerate(noise(60, 170)):
        head = struct.pack("!BBHII", 0x92, 0, n, n * 160, 7) + bytes(8)
        packets.append(head + struct.pack("!HH", 0xBEDE, 2) + bytes(8) + payload)
    assert look(packets).wire == "encrypted"


def test_one_direction_in_clear_is_enough() -> None:
    clear, secure, unseen = Look("clear"), Look("encrypted"), Look("not checked")
    assert worst([secure, clear]).wire == "clear"
    assert worst([unseen, clear]).wire == "clear"
    assert worst([secure, unseen]).wire == "encrypted"
    assert worst([]).wire == "not checked"


@given(st.lists(st.binary(max_size=300), max_size=80))
def test_hostile_datagrams_never_raise(datagrams: list[bytes]) -> None:
    look(datagrams)
    look([b"\x9f\x00" + each for each in datagrams])
