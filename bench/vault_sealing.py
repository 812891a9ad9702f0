"""Throughput of sealing against the bare cipher on the same 16 KiB pieces, in one thread.

A round has each side once, over the same 4 MiB: audio that was just read is in the cache, and so is
this. The bare side has its nonces, pieces and places made beforehand; ours has one call for 64
chunks, as the agent makes it. Time is the thread's CPU time, so that other work on the machine does
not count as ours; a ratio is the median over the rounds.
"""

from __future__ import annotations

import ctypes
import hashlib
import secrets
import time
from collections.abc import Callable
from statistics import median

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from bench.figures import Figure
from controller.vault.body import CHUNK, SEALED, Sealer
from controller.vault.sm4 import GcryptSm4Gcm, OpensslSm4Gcm, gcrypt

SETUP = "4 MiB in 16 KiB chunks, one thread"
CHUNKS = 256
BATCH = 64
CONTEXT = bytes(100)

Run = Callable[[], object]


class Sides:
    """What is compared; each run goes over all CHUNKS."""

    def __init__(self) -> None:
        self.plain = memoryview(bytearray(secrets.token_bytes(CHUNKS * CHUNK)))  # as the agent's
        self.out = memoryview(bytearray(CHUNKS * SEALED))
        self.pieces = [self.plain[i * CHUNK : (i + 1) * CHUNK] for i in range(CHUNKS)]
        self.places = [self.out[i * SEALED : (i + 1) * SEALED] for i in range(CHUNKS)]
        self.nonces = [i.to_bytes(12) for i in range(CHUNKS)]

    def bare(self, cipher: AESGCM | OpensslSm4Gcm) -> Run:
        def run() -> None:
            encrypt_into = cipher.encrypt_into
            for nonce, piece, place in zip(self.nonces, self.pieces, self.places, strict=True):
                encrypt_into(nonce, piece, None, place)

        return run

    def bare_gcrypt(self) -> Run | None:
        """libgcrypt's three calls a chunk, with addresses made beforehand."""
        library = gcrypt()
        if library is None:
            return None
        cipher = GcryptSm4Gcm(bytes(16))
        handle, tag = cipher._handle, ctypes.create_string_buffer(16)
        source = (ctypes.c_char * (CHUNKS * CHUNK)).from_buffer_copy(self.plain)
        target = (ctypes.c_char * (CHUNKS * SEALED)).from_buffer(self.out)
        pairs = [
            (
                self.nonces[i],
                ctypes.c_void_p(ctypes.addressof(target) + i * SEALED),
                ctypes.c_void_p(ctypes.addressof(source) + i * CHUNK),
            )
            for i in range(CHUNKS)
        ]

        def run(_keep: object = (cipher, source, target)) -> None:
            for nonce, to, of in pairs:
                library.gcry_cipher_setiv(handle, nonce, 12)
                library.gcry_cipher_encrypt(handle, to, CHUNK, of, CHUNK)
                library.gcry_cipher_gettag(handle, tag, 16)

        return run

    def sealer(self, suite: str) -> Run:
        sealer = Sealer(suite, bytes(32), CONTEXT, bytes(24))

        def run() -> None:
            for first in range(0, CHUNKS, BATCH):
                end = first + BATCH
                sealer.seal_into(
                    first,
                    self.plain[first * CHUNK : end * CHUNK],
                    self.out[first * SEALED : end * SEALED],
                )

        return run

    def one_by_one(self) -> Run:
        sealer = Sealer("cobblestone-256", bytes(32), CONTEXT, bytes(24))

        def run() -> None:
            for index, piece in enumerate(self.pieces):
                sealer.seal(index, piece)

        return run

    def with_evidence(self) -> Run:
        """Sealed, and hashed as a leaf of the evidence log would be."""
        seal = self.sealer("cobblestone-256")

        def run() -> None:
            seal()
            leaf = hashlib.sha256()
            leaf.update(self.out)
            leaf.digest()

        return run


def figures(*, quick: bool) -> list[Figure]:
    sides = Sides()
    aes = {
        "aes": sides.bare(AESGCM(bytes(32))),
        "seal": sides.sealer("cobblestone-256"),
        "one": sides.one_by_one(),
        "evidence": sides.with_evidence(),
    }
    sm4 = {"openssl": sides.bare(OpensslSm4Gcm(bytes(16))), "seal": sides.sealer("sm4-gcm")}
    if (bare := sides.bare_gcrypt()) is not None:
        sm4["gcrypt"] = bare
    rounds = 30 if quick else 400
    aes_s = _rounds(aes, rounds)
    sm4_s = _rounds(sm4, max(10, rounds // 10))
    fastest = min(("openssl", "gcrypt"), key=lambda name: median(sm4_s.get(name, [1e9])))
    return [
        Figure("seal_ratio", _ratio(aes_s, "aes", "seal"),
               "sealing 64 chunks a call, over AES-256-GCM encrypt_into alone", "≥ 0.85"),
        Figure("seal_one_ratio", _ratio(aes_s, "aes", "one"), "the same, one chunk a call"),
        Figure("seal_gb_s", _gb_s(aes_s["seal"]), "audio sealed, GB/s"),
        Figure("aes_gb_s", _gb_s(aes_s["aes"]), "AES-256-GCM alone, GB/s"),
        Figure("seal_evidence_gb_s", _gb_s(aes_s["evidence"]),
               "audio sealed and the sealed bytes hashed with SHA-256, GB/s"),
        Figure("sm4_ratio", _ratio(sm4_s, fastest, "seal"),
               "sealing with SM4-GCM, over the fastest SM4-GCM of the machine alone", "≥ 0.9"),
        Figure("sm4_seal_gb_s", _gb_s(sm4_s["seal"]), "audio sealed with SM4-GCM, GB/s"),
        Figure("sm4_openssl_gb_s", _gb_s(sm4_s["openssl"]), "OpenSSL's SM4-GCM alone, GB/s"),
        Figure("sm4_fastest", fastest, "the library that is fastest here"),
    ]  # fmt: skip


def _rounds(sides: dict[str, Run], rounds: int) -> dict[str, list[float]]:
    """CPU seconds of each run, all sides in turn, in changing order."""
    taken: dict[str, list[float]] = {name: [] for name in sides}
    for run in sides.values():
        run()
    names = list(sides)
    for number in range(rounds):
        for name in names if number % 2 else reversed(names):
            began = time.thread_time()
            sides[name]()
            taken[name].append(time.thread_time() - began)
    return taken


def _ratio(taken: dict[str, list[float]], bare: str, ours: str) -> float:
    return median(a / b for a, b in zip(taken[bare], taken[ours], strict=True))


def _gb_s(taken: list[float]) -> float:
    return CHUNKS * CHUNK / median(taken) / 1e9
