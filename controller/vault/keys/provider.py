"""What guards the vault's few long-lived keys: the contract of a key provider."""

from __future__ import annotations

from typing import Protocol


class Provider(Protocol):
    """Wraps secrets of at most 64 bytes with a key that the caller never sees.

    `purpose` is bound into what comes out: under another purpose it does not unwrap. The same
    secret wrapped twice gives different bytes. Both calls block, up to seconds for a key service:
    from asyncio they go to a thread. One instance may be used by one thread at a time.

    Raises Tampered for bytes that this key did not wrap for this purpose, LoginRefused when PIN
    or token are refused, KeysUnreachable when device or service do not answer.
    """

    name: str

    def wrap(self, secret: bytes, purpose: bytes) -> bytes:
        """At most 256 bytes."""

    def unwrap(self, wrapped: bytes, purpose: bytes) -> bytes: ...

    def close(self) -> None:
        """Forgets what it holds; using it afterwards is an error."""
