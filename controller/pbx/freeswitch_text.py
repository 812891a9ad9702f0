"""Commands to FreeSWITCH and its answers as text; no input or output here.

FreeSWITCH expands `{a=b,c=d}` and `${api()}` in originate strings, splits them at `,` and `|`, and
splits API arguments at spaces; it has no quoting that holds for all of these. So nothing is
quoted: each value is checked against the characters that it needs, and refused otherwise.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import PurePosixPath

import msgspec

from controller.errors import LinkLost, ProtocolViolation, UsageError
from controller.model import Kind, NodeFacts, OriginateRequest

_ENDPOINT = re.compile(
    r"[A-Za-z0-9_]+/[A-Za-z0-9_.+*#@:;=/-]{1,200}(\[[0-9A-Fa-f:.]{2,45}\](:[0-9]{1,5})?)?"
    r"(;transport=(udp|tcp|tls))?",
    re.ASCII,
)
_WORD = re.compile(r"[A-Za-z0-9_.+*#-]{1,64}", re.ASCII)
_CALLER = re.compile(r"[A-Za-z0-9_.+*#@-]{0,64}", re.ASCII)
_PLACEMENT = re.compile(r"[A-Za-z0-9_.:-]{0,128}", re.ASCII)
_ID = re.compile(r"[A-Za-z0-9_.@:-]{1,128}", re.ASCII)
_PATH = re.compile(r"/[A-Za-z0-9._/-]{1,200}", re.ASCII)
_VERSION = re.compile(r"FreeSWITCH \(?Version (\d+\.\d+\.\d+)")
_UPTIME = re.compile(
    r"UP (\d+) years?, (\d+) days?, (\d+) hours?, (\d+) minutes?, (\d+) seconds?, (\d+) millisec"
)
_SESSIONS = re.compile(r"^(\d+) session\(s\) - peak", re.MULTILINE)
_MAX = re.compile(r"^(\d+) session\(s\) max", re.MULTILINE)


class ChannelRow(msgspec.Struct, frozen=True):
    """A row of `show channels as json`, what we need of it."""

    uuid: str
    created_epoch: str = "0"
    direction: str = ""
    cid_num: str = ""
    dest: str = ""
    callstate: str = ""


class _ChannelList(msgspec.Struct, frozen=True):
    row_count: int
    rows: list[ChannelRow] = []


def originate(request: OriginateRequest, leg: str) -> str:
    """The `originate` command; `leg` becomes the Unique-ID. UsageError: a character too many."""
    endpoint = _checked("endpoint", request.endpoint, _ENDPOINT)
    if ":_:" in endpoint:  # splits the string into several originates
        raise UsageError(f"endpoint {endpoint!r} has characters that FreeSWITCH would act on")
    exten = _checked("exten", request.exten, _WORD)
    context = _checked("context", request.context, _WORD)
    variables = {
        "origination_uuid": leg,
        "pbxctl_placement": _checked("placement", request.placement, _PLACEMENT),
        "originate_timeout": str(max(1, round(request.timeout_s))),
        "origination_caller_id_number": _checked("caller", request.caller, _CALLER),
    }
    listed = ",".join(f"{name}={value}" for name, value in variables.items() if value)
    return f"originate {{{listed}}}{endpoint} {exten} XML {context}"


def recording(file: str, rate_hz: int, on_end: str) -> dict[str, str]:
    """Variables of a leg that is recorded into `file`; lua/freeswitch/record.lua sets the same."""
    return {
        "RECORD_STEREO": "true",
        "RECORD_ANSWER_REQ": "true",
        "record_sample_rate": str(rate_hz),
        "enable_file_write_buffering": "false",
        "recording_follow_transfer": "true",
        "pbxctl_recording": PurePosixPath(path(file)).stem,
        "api_on_record_stop": f"lua {path(on_end)} {PurePosixPath(file).with_suffix('.end')}",
    }


def path(text: str) -> str:
    """UsageError for a path that FreeSWITCH would take apart."""
    return _checked("path", text, _PATH)


def is_id(text: str) -> bool:
    """True for what may stand in a command as a call's or leg's id."""
    return _ID.fullmatch(text) is not None


def _checked(what: str, text: str, allowed: re.Pattern[str]) -> str:
    if not allowed.fullmatch(text):
        raise UsageError(f"{what} {text[:40]!r} has characters that FreeSWITCH would act on")
    return text


_RELOADS = {
    "dialplan": "reloadxml",
    "directory": "reloadxml",
    "acl": "reloadacl",
    "certificates": "reloadcert",
}
_SOFIA = re.compile(r"sofia(/[A-Za-z0-9_-]{1,64})?", re.ASCII)
_PROFILE = re.compile(r"^\s*([A-Za-z0-9_-]{1,64})\tprofile\t.*RUNNING", re.MULTILINE | re.ASCII)


def reload(module: str, sofia_status: str) -> Sequence[str]:
    """The commands that reload `module`; sofia_status: the output of `sofia status`.

    module: "dialplan", "directory", "acl", "certificates", "sofia" (each profile that runs) or
    "sofia/PROFILE".
    None of them ends a call: `rescan` takes new gateways and settings, `restart` would not do.
    """
    if module in _RELOADS:
        return [_RELOADS[module]]
    if not _SOFIA.fullmatch(module):
        known = ", ".join([*_RELOADS, "sofia", "sofia/PROFILE"])
        raise UsageError(f"no such part of FreeSWITCH: {module[:40]!r}", hint=f"one of {known}")
    running = _PROFILE.findall(sofia_status)
    wanted = module.partition("/")[2]
    if wanted and wanted not in running:
        raise UsageError(f"no SIP profile {wanted!r} runs", hint=f"running: {', '.join(running)}")
    return ["reloadxml", *(f"sofia profile {p} rescan" for p in running if p == (wanted or p))]


def facts(status: str) -> NodeFacts:
    """What `status` tells. LinkLost: no version in it, so this is not a FreeSWITCH that is up."""
    version = _VERSION.search(status)
    up = _UPTIME.search(status)
    most = _MAX.search(status)
    if version is None or up is None:
        raise LinkLost("the answer to `status` shows no FreeSWITCH", hint="is it still starting?")
    years, days, hours, minutes, seconds, millis = (int(part) for part in up.groups())
    uptime_s = ((years * 365 + days) * 24 + hours) * 3600 + minutes * 60 + seconds + millis / 1000
    channels_max = int(most[1]) if most else None
    return NodeFacts(
        kind=Kind.FREESWITCH,
        version=version[1],
        uptime_s=uptime_s,
        calls_max=channels_max // 2 if channels_max is not None else None,
        channels_max=channels_max,
    )


def sessions(status: str) -> int:
    """The legs that FreeSWITCH has in memory, as `status` tells; 0 when it does not."""
    found = _SESSIONS.search(status)
    return int(found[1]) if found else 0


def channel_rows(output: str) -> list[ChannelRow]:
    """`show channels as json`, the oldest leg first. ProtocolViolation: not that."""
    try:
        listed = msgspec.json.decode(output, type=_ChannelList)
    except msgspec.DecodeError as error:
        raise ProtocolViolation(f"the list of channels cannot be read: {error}") from None
    # Seconds decide badly between the legs of one call; the inbound leg is the one that dialled.
    return sorted(listed.rows, key=lambda row: (_epoch(row), row.direction != "inbound"))


def _epoch(row: ChannelRow) -> int:
    return int(row.created_epoch) if row.created_epoch.isdigit() else 0
