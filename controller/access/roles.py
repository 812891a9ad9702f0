"""What people may, by the roles in their certificates. A certificate may have several."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum


class Role(StrEnum):
    """OPERATOR runs the fleet, AUDITOR listens, CUSTODIAN answers for what is kept and its keys."""

    OPERATOR = "operator"
    AUDITOR = "auditor"
    CUSTODIAN = "custodian"


class Right(StrEnum):
    """FLEET: change nodes, calls and phones. LIST: recordings, numbers masked. REVEAL: the numbers.

    LISTEN: audio, and pictures of it. VERIFY: that audio is unaltered, without hearing it.
    LOG: who read what. HOLD, ERASE: of recordings. KEYS: status, rotation and check of the vault.
    """

    FLEET = "fleet"
    LIST = "list"
    REVEAL = "reveal"
    LISTEN = "listen"
    VERIFY = "verify"
    LOG = "log"
    HOLD = "hold"
    ERASE = "erase"
    KEYS = "keys"


RIGHTS: dict[Role, frozenset[Right]] = {
    Role.OPERATOR: frozenset({Right.FLEET, Right.LIST}),
    Role.AUDITOR: frozenset({Right.LIST, Right.REVEAL, Right.LISTEN, Right.VERIFY, Right.LOG}),
    Role.CUSTODIAN: frozenset(
        {Right.LIST, Right.REVEAL, Right.VERIFY, Right.LOG, Right.HOLD, Right.ERASE, Right.KEYS}
    ),
}


def rights_of(names: Iterable[str]) -> frozenset[Right]:
    """Of all the roles together; a name that is none of ours gives nothing."""
    known = {role.value for role in Role}
    return frozenset().union(*(RIGHTS[Role(name)] for name in names if name in known))


def who_may(right: Right) -> list[str]:
    return [role.value for role, rights in RIGHTS.items() if right in rights]
