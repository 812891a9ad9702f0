"""What a phone is called, which nodes hold it, and its credentials. Pure but for random bytes.

Which nodes hold a phone: those of its region, and those of the regions that its region spills to:
where placement would send its region's callers, the region's phones can log in.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass

from controller.config import Config, NodeConfig, split_address
from controller.errors import UsageError
from controller.fleet.phones import NodePhones
from controller.records.phones import Digests, Phone

DISPLAY_MAX_CHARS = 5000
PASSWORD_BYTES = 18  # 144 random bits: the digests cannot be searched
_NAME = re.compile(r"[0-9]{1,18}", re.ASCII)
LABEL_MAX_CHARS = 40
#: beside letters, digits and their marks; all else means something to some PBX or phone
_LABEL_SIGNS = frozenset(" .-_@+")


def checked_name(config: Config, text: str) -> str:
    """`text` when a phone may be called so, for it is what others dial; UsageError otherwise."""
    if not _NAME.fullmatch(text):
        raise UsageError(
            f"{text[:64]!r} cannot be a phone's name: nobody could dial it",
            hint="its extension, 1 to 18 digits, such as 1001; --display takes any text",
        )
    fits = [n for n in config.numbers if text.startswith(n.prefix)]
    planned = max(fits, key=lambda n: len(n.prefix), default=None)
    if planned and planned.service != "phone":
        raise UsageError(
            f"{text} is a number of {planned.prefix}, which the config has for {planned.service}",
            hint="take another extension, or change `numbers`",
        )
    return text


def checked_display(text: str) -> str:
    """A display name as it may be kept: any text, no longer than DISPLAY_MAX_CHARS.

    What of it reaches a PBX's file is decided by `caller_id`. UsageError for what is no Unicode
    text at all (lone surrogates).
    """
    if len(text) > DISPLAY_MAX_CHARS:
        raise UsageError(f"a display name has at most {DISPLAY_MAX_CHARS} characters")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise UsageError("the display name is not valid Unicode text") from error
    if "\0" in text:  # PostgreSQL has no such character
        raise UsageError("a display name has no NUL character")
    return text


def caller_name(display: str) -> str:
    """What of a display name goes over SIP: letters, digits and few signs, 40 characters at most.

    A name is hostile text on its way into a PBX's file, a SIP header and other phones' screens.
    """
    kept = "".join(c if _shown(c) else " " for c in unicodedata.normalize("NFC", display))
    return " ".join(kept.split())[:LABEL_MAX_CHARS].strip()


def _shown(char: str) -> bool:
    return char in _LABEL_SIGNS or unicodedata.category(char)[0] in "LN"


def new_password() -> str:
    return secrets.token_urlsafe(PASSWORD_BYTES)


def digests(name: str, realm: str, password: str) -> Digests:
    """What a PBX needs to check the password by digest authentication (RFC 8760, 7616)."""
    secret = f"{name}:{realm}:{password}".encode()
    return Digests(
        hashlib.md5(secret, usedforsecurity=False).hexdigest(), hashlib.sha256(secret).hexdigest()
    )


def regions_of(config: Config, region: str) -> tuple[str, ...]:
    """The regions whose nodes hold the phones of `region`, nearest first."""
    known = config.regions.get(region)
    return (region, *(known.spill_to if known else ()))


def regions_held_by(config: Config, node: str) -> list[str]:
    """The regions whose phones the node holds."""
    own = config.nodes[node].region
    return [region for region in config.regions if own in regions_of(config, region)]


def nodes_holding(config: Config, region: str) -> list[str]:
    """The nodes that hold the phones of `region`."""
    wide = set(regions_of(config, region))
    return [name for name, node in config.nodes.items() if node.region in wide]


def waiting(config: Config, phone: Phone, told: Mapping[str, NodePhones]) -> list[str]:
    """The nodes that do not run on this phone's last change yet."""
    return [
        node
        for node in nodes_holding(config, phone.region)
        if told.get(node, NodePhones()).versions.get(phone.region, -1) < phone.version
    ]


def behind(
    config: Config, node: str, published: Mapping[str, int], told: Mapping[str, NodePhones]
) -> int:
    """How many published changes of phones the node does not run on yet; 0 when it is in step.

    published: versions by region.
    """
    has = told.get(node, NodePhones()).versions
    wanted = {r: published[r] for r in regions_held_by(config, node) if r in published}
    # Another version may also be a lower one: records that were restored from a backup.
    return sum(
        max(1, version - has.get(region, 0)) if has.get(region) != version else 0
        for region, version in wanted.items()
    )


def signalling_address(config: Config, node: NodeConfig) -> str:
    """host:port where phones log in."""
    return node.phones_sip if config.security.signalling == "tls" else node.sip


@dataclass(frozen=True)
class Server:
    """Where a phone may log in. near: in the phone's own region."""

    node: str
    host: str
    port: int
    weight: float
    near: bool

    @property
    def address(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def servers(config: Config, region: str, phone: str) -> list[Server]:
    """The nodes a phone tries, in order: its region's first, then those of each spill region.

    Within a region the order is the phone's own (a hash of phone and node, by weight), so that
    phones spread over the nodes, and those of a dead node over all that are left.
    """
    found = []
    for wide in regions_of(config, region):
        here = [(n, node) for n, node in config.nodes.items() if node.region == wide]
        here.sort(key=lambda item: _rank(phone, *item), reverse=True)
        for name, node in here:
            host, port = split_address(signalling_address(config, node))
            found.append(Server(name, host, port, node.weight, wide == region))
    return found


def _rank(phone: str, name: str, node: NodeConfig) -> float:
    """Rendezvous hashing with weights: u**(1/w), u uniform in (0, 1) for each phone and node."""
    digest = hashlib.sha256(f"{phone}\0{name}".encode()).digest()
    uniform = (int.from_bytes(digest[:8]) + 0.5) / 2**64
    return float(uniform ** (1 / node.weight))
