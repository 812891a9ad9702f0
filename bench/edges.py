"""Two Kamailios that differ in one thing: who chooses the node.

`ours` is what `pbxctl render` writes. `alg10` is the same text with the question to Redis taken out
and dispatcher's algorithm 10 (call load distribution) put in its place, with the load updates that
its documentation asks for; checks, transactions, probes and failover stay as they are.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from controller.config import Config
from controller.render.file import File
from controller.render.files import folder_of, render
from controller.render.write import write
from tests.lab.lab import Lab
from tests.lab.services import Program
from tests.lab.sip import answers_options

# https://www.kamailio.org/docs/modules/5.6.x/modules/dispatcher.html, ds_select_dst() and
# ds_load_update()
_PLACE = """route[PLACE] {
    $avp(placement) = "";
    $avp(listed) = 1;
    if (!ds_select_dst("1", "10")) {
        $avp(cause) = "503";
        route(REJECT);
        exit;
    }
    route(TO_NODE);
}

"""
_ON_REPLY = """    if (is_method("INVITE")) {
        if (status=~"^2") ds_load_update();
        else if (status=~"^[3-7]") ds_load_unset();
    }
"""


def with_alg10(text: str) -> str:
    """The rendered kamailio.cfg with algorithm 10 in the place of Redis. Raises ValueError when the
    template has changed so much that this no longer knows where to cut."""
    text = _cut(
        text,
        r'^(loadmodule "ndb_redis|modparam\("ndb_redis|include_file "pbxctl-redis)[^\n]*\n',
        "",
    )
    text = _cut(text, r"(^#[^\n]*\n)*^route\[PLACE\] \{.*?^\}\n", _PLACE)
    text = _cut(text, r"(^#[^\n]*\n)*^route\[ASK\] \{.*?^\}\n", "")
    text = _cut(
        text, r"^(route\[IN_DIALOGUE\] \{\n)", r'\1    if (is_method("BYE")) ds_load_update();\n'
    )
    text = _cut(text, r'^(    if \(is_method\("CANCEL"\)\) \{\n)', r"\1        ds_load_update();\n")
    text = _cut(text, r"^(onreply_route\[FROM_NODE\] \{\n)", r"\1" + _ON_REPLY)
    return _cut(
        text,
        r'^(modparam\("dispatcher", "flags"[^\n]*\n)',
        # counts live in a hash of 2^9 slots; a call whose BYE is lost counts for two hours
        r'\1modparam("dispatcher", "ds_hash_size", 9)\n',
    )


def _cut(text: str, pattern: str, put: str) -> str:
    changed, count = re.subn(pattern, put, text, flags=re.MULTILINE | re.DOTALL)
    if not count:
        raise ValueError(f"kamailio.cfg.j2 has nothing like {pattern!r} any more")
    return changed


def start_alg10(lab: Lab, config: Config, name: str, maxload: Mapping[str, int]) -> Program:
    """The edge `name` on algorithm 10. maxload: node to its limit of calls."""
    rendered = render(config, name)
    nodes = "".join(
        f"1 sip:{config.nodes[n].sip} 0 0 duid={n};maxload={most}\n" for n, most in maxload.items()
    )
    text = with_alg10(rendered.files["kamailio.cfg"].text)
    files = rendered.files | {"kamailio.cfg": File(text), "pbxctl-dispatcher.list": File(nodes)}
    del files["pbxctl-redis.cfg"]
    write(replace(rendered, files=files))
    return _start(lab, config, name)


def start_ours(lab: Lab, config: Config, name: str) -> Program:
    """The edge `name` as rendered."""
    write(render(config, name))
    return _start(lab, config, name)


def _start(lab: Lab, config: Config, name: str) -> Program:
    host, port = config.edges[name].sip.rsplit(":", 1)
    program: list[str | Path] = ["kamailio", "-f", folder_of(config, name) / "kamailio.cfg"]
    return lab.program(
        name,
        [*program, "-DD", "-E", "-m", "64", "-M", "8", "-P", lab.run.folder / f"{name}.pid"],
        ready=lambda: answers_options(host, int(port)),
    )
