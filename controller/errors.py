"""Every error that pbxctl raises on purpose, with its exit code.

    PbxctlError                1  something failed
    ├── UsageError             2  the caller's input is wrong
    │   ├── ConfigError        2  ... in a file: names file, line and key
    │   └── NotFound           2  no node, call or the like has that name
    ├── Unreachable            3  something we need does not answer
    │   ├── LinkLost           3  the control link to a node closed, broke or fell silent
    │   ├── DeadlineExceeded   3  no answer within the deadline; the effect is unknown
    │   ├── FleetUnreachable   3  Redis does not answer, or has no function library
    │   ├── RecordsUnreachable 3  SQL does not answer, or cannot write
    │   ├── StoreUnreachable   3  recordings cannot be stored or read: disk, folder or S3
    │   └── KeysUnreachable    3  the HSM or the key service does not answer
    ├── VaultError             1  a recording, its header or its keys are not as they must be
    │   ├── KeyDestroyed       1  its key is gone for good: erased
    │   └── Tampered           4  sealed bytes that nobody sealed so: names the chunk
    └── Refused                4  the other side understood, and said no
        ├── LoginRefused       4  wrong user, password or address list
        ├── CommandRefused     4  the PBX answered -ERR or Response: Error
        ├── StaleEpoch         4  another writer holds the lease now
        └── ProtocolViolation  4  bytes that no honest PBX sends (size caps, broken framing)

Errors of libraries are translated at one border each: pbx/esl.py (greenswitch, gevent),
pbx/ami.py (panoramisk), fleet/functions.py (redis), api/client.py (http.client),
records/database.py (sqlalchemy), vault/store.py (obstore), vault/keys/pkcs11.py (pkcs11),
vault/keys/transit.py (http.client).
"""

from __future__ import annotations


class PbxctlError(Exception):
    """Something failed. `hint` says what the operator can do next; it may be empty."""

    exit_code = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(PbxctlError):
    exit_code = 2


class ConfigError(UsageError):
    """A wrong line in a config file; `line` counts from 1, 0 means the file as a whole."""

    def __init__(self, message: str, *, file: str, line: int = 0, key: str = "", hint: str = ""):
        where = f"{file}:{line}" if line else file
        super().__init__(f"{where}: {key + ': ' if key else ''}{message}", hint=hint)
        self.file = file
        self.line = line
        self.key = key


class NotFound(UsageError):
    pass


class Unreachable(PbxctlError):
    exit_code = 3


class LinkLost(Unreachable):
    pass


class DeadlineExceeded(Unreachable):
    pass


class FleetUnreachable(Unreachable):
    pass


class RecordsUnreachable(Unreachable):
    pass


class StoreUnreachable(Unreachable):
    pass


class KeysUnreachable(Unreachable):
    pass


class VaultError(PbxctlError):
    pass


class KeyDestroyed(VaultError):
    pass


class Tampered(VaultError):
    """Sealed bytes were altered, cut, moved, or belong to something else.

    chunk: the first one that is not genuine; None when the prologue before all chunks is not,
    or what is sealed has no chunks.
    """

    exit_code = 4

    def __init__(self, message: str, *, chunk: int | None = None, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.chunk = chunk


class Refused(PbxctlError):
    exit_code = 4


class LoginRefused(Refused):
    pass


class CommandRefused(Refused):
    pass


class StaleEpoch(Refused):
    pass


class ProtocolViolation(Refused):
    pass
