"""A call's record as a story in plain words, with the numbers that decided."""

from __future__ import annotations

import re

from controller.config import Config, RangeConfig
from controller.fleet.state import CallRecord

_CHOSEN = re.compile(
    r"(?:spilled from (?P<home>\S+): )?least load (?P<load>[\d.]+) in (?P<region>\S+), "
    r"calls (?P<live>\d+)\+(?P<reserved>\d+) of (?P<limit>\d+)"
    r"(?:; next (?P<next>\S+) (?P<next_load>[\d.]+))?(?:; (?P<ramping>.*))?"
)


def planned(config: Config, callee: str) -> RangeConfig | None:
    """The number plan's entry for `callee`: the longest prefix wins, as in 20_route.lua."""
    fits = [n for n in config.numbers if callee.startswith(n.prefix)]
    return max(fits, key=lambda n: len(n.prefix), default=None)


def explain(call: CallRecord, config: Config, now_ms: int) -> list[str]:
    """Sentences in the order of what happened. Values of phones are in them as they came."""
    if not call.placement:
        words = [
            f"The fleet did not place this call: it began on {call.node} by itself "
            "(a phone dialling out there, or a trunk that does not ask).",
            "It counts as load all the same.",
        ]
        return words + _life(call, config, now_ms)
    asked = f"A call from {call.caller or 'an unknown caller'} to {call.callee or 'nobody'}"
    words = [f"{asked} asked for a node from region {call.region}.", _plan(call, config)]
    words += _choice(call)
    if call.tried:
        nodes = ", ".join(sorted(call.tried))
        words.append(f"Attempt {len(call.tried) + 1}: {nodes} had refused it or did not answer.")
    return words + _life(call, config, now_ms)


def _plan(call: CallRecord, config: Config) -> str:
    entry = planned(config, call.callee)
    if entry is None:
        spill = config.regions[call.region].spill_to if call.region in config.regions else ()
        order = ", then ".join([call.region, *spill])
        return f"No entry of the number plan fits; priority {call.priority}, regions {order}."
    order = ", then ".join(entry.regions) if entry.regions else f"{call.region} first"
    return (
        f"The number plan's entry {entry.prefix} makes it service {call.service or entry.service}, "
        f"priority {call.priority}, regions {order}."
    )


def _choice(call: CallRecord) -> list[str]:
    match = _CHOSEN.fullmatch(call.reason)
    if not match:
        return [f"{call.node} was chosen: {call.reason}."]
    words = [
        f"{call.node} was chosen: the least loaded fit node of {match['region']}, at load "
        f"{match['load']}, with {match['live']} calls and {match['reserved']} reserved of "
        f"{match['limit']}."
    ]
    if match["home"]:
        words.insert(0, f"Region {match['home']} had no room below its mark, so others were asked.")
    if match["next"]:
        words.append(f"The next one was {match['next']} at load {match['next_load']}.")
    if match["ramping"]:
        words.append(f"Passed over: {match['ramping']}.")
    return words


def _life(call: CallRecord, config: Config, now_ms: int) -> list[str]:
    words = []
    if call.state == "reserved":
        since_ms = now_ms - call.placed_ms
        words.append(f"It was placed {_span(since_ms)} ago and has not shown on {call.node}.")
        if since_ms > config.placement.reservation_s * 1000:
            kept = _span(round(config.placement.reservation_s * 1000))
            words.append(f"Its reservation ended unconfirmed after {kept}.")
    if call.started_ms:
        after = f" {_span(call.started_ms - call.placed_ms)} after placement" * bool(call.placed_ms)
        words.append(f"It showed on {call.node}{after}, as {call.pbx_id}.")
    if call.answered_ms:
        words.append(f"It was answered {_span(call.answered_ms - call.started_ms)} after that.")
    words += _media(call)
    if call.ended_ms:
        cause = f", Q.850 cause {call.cause}" if call.cause else ""
        words.append(f"It ended after {_span(call.ended_ms - call.started_ms)}{cause}.")
    elif call.state == "live":
        what = "is up" if call.answered_ms else "is ringing"
        words.append(f"It {what}, {_span(now_ms - call.started_ms)} after its start.")
    return words


def _media(call: CallRecord) -> list[str]:
    if not (told := call.security):
        return []
    after = _span(told.checked_ms - call.answered_ms) if call.answered_ms else ""
    legs = "1 leg" if len(told.legs) == 1 else f"{len(told.legs)} legs"
    known = {
        "encrypted": f"Its media was found encrypted on {legs}",
        "plain": f"Its media was found NOT encrypted ({told.reason})",
        "unknown": f"Its media could not be told ({told.reason})",
    }[told.verdict]
    words = [f"{known}{', ' + after + ' after its answer' if after else ''}."]
    if told.action == "hangup":
        words.append("It was hung up for that.")
    elif told.action == "alarm":
        words.append("It went on, with an alarm: pbxctl alarms.")
    if told.packets == "clear":
        words.append("Packets on the wire were in clear, whatever the PBX said.")
    return words


def _span(ms: int) -> str:
    """A duration as people say it: 35 ms, 4.2 s, 3 min 20 s."""
    if ms < 1000:
        return f"{max(ms, 0)} ms"
    if ms < 60_000:
        return f"{ms / 1000:.1f} s"
    minutes, seconds = divmod(ms // 1000, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds} s"
