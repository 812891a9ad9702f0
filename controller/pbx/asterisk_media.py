"""What Asterisk tells of the media of its channels.

    CHANNEL(rtp,secure)   1 once SRTP keys are in place, by SDES or DTLS. It never falls back: a
                          re-INVITE without keys that Asterisk accepts (media_encryption_optimistic)
                          leaves the old keys on both directions, and clear packets are dropped.
                          A leg that has left audio (T.38) gives no answer at all.
    suite                 is nowhere to be had, neither by function nor by action.
    Status with Variables would read all channels in one action, but holds each channel's lock while
                          it waits for that channel's thread: it can deadlock a call. Hence Getvar.

Source: channels/pjsip/dialplan_functions.c, main/manager.c, res/res_srtp.c of 22.10, and seen so.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable

from controller.errors import CommandRefused
from controller.model import Security
from controller.pbx.asterisk_calls import Leg

#: technologies that are inside Asterisk and reach no wire
INTERNAL = frozenset(
    "Local Surrogate Message Announcer Recorder CBAnn CBRec Snoop Bridge".split()  # noqa: SIM905
)

_FLAG = {"1": True, "0": False}

Getvar = Callable[[str, str], Awaitable[str]]
"""variable, Uniqueid → value; CommandRefused: no such channel."""


async def security(getvar: Getvar, legs: Iterable[tuple[str, Leg]]) -> list[Security]:
    """legs: Uniqueid and leg of a call. Those that end meanwhile, or reach no wire, are left out.

    The whole is asked once a leg; asked again, one Getvar a leg.
    """
    outer = [(uid, leg) for uid, leg in legs if leg.channel.partition("/")[0] not in INTERNAL]
    found = await asyncio.gather(*(_leg(getvar, uid, leg) for uid, leg in outer))
    return [each for each in found if each is not None]


async def _leg(getvar: Getvar, uniqueid: str, leg: Leg) -> Security | None:
    technology, _, rest = leg.channel.partition("/")
    if technology != "PJSIP":  # another channel driver: nothing is known of its media
        return Security(leg.channel, None, peer=technology)
    try:
        if leg.tls:
            secure = await getvar("CHANNEL(rtp,secure)", uniqueid)
        else:
            secure, leg.tls, leg.rtp = await asyncio.gather(
                getvar("CHANNEL(rtp,secure)", uniqueid),
                getvar("CHANNEL(pjsip,secure)", uniqueid),
                getvar("CHANNEL(rtp,src)", uniqueid),
            )
    except CommandRefused:  # it ended meanwhile
        return None
    return Security(
        leg=leg.channel,
        encrypted=_FLAG.get(secure),
        signalling_tls=_FLAG.get(leg.tls),
        peer=rest.rpartition("-")[0],
        local=leg.rtp,
    )
