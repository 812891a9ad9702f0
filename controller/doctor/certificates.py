"""The certificates: there, in time, closed to others."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

from controller.config import Config
from controller.doctor.finding import Finding, fail, ok, warn
from controller.errors import PbxctlError
from controller.pki.store import Kept, Store, open_store
from controller.pki.wanted import Wanted, wanted

WARN_S = 21 * 86_400


def judge_certificate(kept: Kept, now: dt.datetime) -> Finding:
    """Renewed with a third of its life left, so three weeks mean that nobody renews it."""
    check = f"certificate {kept.authority}/{kept.name}"
    left_s = kept.expires_s(now)
    day = f"{kept.certificate.not_valid_after_utc:%Y-%m-%d}"
    fix = "pbxctl pki renew, where the authority's key is; agents bring it to the nodes"
    if kept.name == "ca":
        fix = "make a new authority and issue everything anew: docs/pki.md"
    elif kept.authority == "people":
        fix = f"pbxctl pki renew {kept.name}, and give its owner the new files"
    if left_s < 0:
        return fail("pki", check, f"it ended on {day}", fix)
    if left_s < WARN_S:
        return warn("pki", check, f"it ends on {day}, in {left_s / 86_400:.0f} days", fix)
    return ok("pki", check, f"good until {day}")


def judge_missing(want: Wanted) -> Finding:
    return fail("pki", f"certificate {want.authority}/{want.name}", "there is none",
                "pbxctl pki renew")  # fmt: skip


def judge_key(path: Path, mode: int) -> Finding | None:
    """None when it is closed: one line for each certificate is enough."""
    if mode & 0o077:
        what = f"{path} is open to others (mode {mode & 0o777:o})"
        return fail("pki", "key", what, f"chmod 600 {path}, and renew it: it may be known")
    return None


def check_certificates(config: Config) -> list[Finding]:
    """Nothing of an encrypted fleet is checked where the config has everything in clear."""
    security = config.security
    if security.signalling == security.control == "plain" and config.gate.listen == "unix":
        return [warn("pki", "security", "signalling and control links are in clear",
                     "remove `signalling: plain`, `control: plain` from the config")]  # fmt: skip
    store = open_store(config)
    try:
        kept = store.kept()
    except PbxctlError as error:
        return [fail("pki", "files", error.message, error.hint)]
    now = dt.datetime.now(dt.UTC)
    there = {(k.authority, k.name) for k in kept}
    found = [judge_certificate(k, now) for k in kept]
    found += [judge_missing(w) for w in wanted(config) if (w.authority, w.name) not in there]
    if config.phones.tls_min == "1.2":
        fix = 'set phones.tls_min to "1.3" once the last old desk phone is gone'
        found.append(warn("phones", "tls", "phones may speak TLS 1.2", fix))
    return found + _keys(store, kept)


def _keys(store: Store, kept: list[Kept]) -> list[Finding]:
    found = []
    for each in kept:
        path = store.key(each.authority, each.name)
        if path.exists() and (finding := judge_key(path, path.stat().st_mode)):
            found.append(finding)
    return found
