"""Where our xenstored does not answer as the real one (Xen 4.17), on purpose: each with its reason.

An *explained* difference may show in an answer and changes nothing else. An *avoided* one would change the store, so
that nothing could be compared after it: the script does not go there, and tests of ours say what happens instead.
"""

import dataclasses
import re
from collections.abc import Callable
from typing import Final

from xenblk.xenstore.store import SPECIAL
from xenblk.xenstore.wire import Packet, XsMsgType


@dataclasses.dataclass(frozen=True)
class Explained:
    """A difference in an answer: which requests, and why ours is as it is. `applies` is asked of the request, and of
    what ours and the real one sent to the same connection."""

    reason: str
    applies: Callable[[Packet, list[Packet], list[Packet]], bool]


def _asks_a_special_name(request: Packet) -> bool:
    return request.type == XsMsgType.GET_PERMS and request.payload[:-1].decode("latin-1") in SPECIAL


def _without_memory(packet: Packet) -> bytes:
    return re.sub(rb"(?m)^memory +: +[0-9]+$", b"", packet.payload)


EXPLAINED: Final = (
    Explained(
        "GET_PERMS of @introduceDomain and @releaseDomain answers, as from Xen 4.20 on; 4.17 says EINVAL.",
        lambda request, ours, real: _asks_a_special_name(request),
    ),
    Explained(
        "CONTROL help names no live-update, which we do not have.",
        lambda request, ours, real: request.type == XsMsgType.CONTROL and request.payload.startswith(b"help\0"),
    ),
    Explained(
        "CONTROL quota of a domain counts the bytes of its transactions without a store's internal keys.",
        lambda request, ours, real: (
            request.type == XsMsgType.CONTROL
            and request.payload.startswith(b"quota\0")
            and [_without_memory(packet) for packet in ours] == [_without_memory(packet) for packet in real]
        ),
    ),
    Explained(
        "RELEASE is answered after the events that it causes; 4.17 answers before them when the domain's connection is "
        "the next in its list, which it then holds on to.",
        lambda request, ours, real: request.type == XsMsgType.RELEASE and sorted(ours) == sorted(real),
    ),
)

AVOIDED: Final = (
    "A path without its end, or with something after it, is EINVAL where one path is asked for; 4.17 answers with the "
    "error that came before, and dies if that was ENOENT.",
    "SET_PERMS of a name with an @ says why it is refused; 4.17 answers with the error that came before, and dies if "
    "there was none.",
    "Paths of domain 0 may have 3072 characters, as the protocol says; 4.17 stops at 2048, 4.20 at a payload's length.",
    "A permission's number is plain decimal, at most 65535; 4.17 takes what C's strtol takes, and keeps 32 bits of it.",
    "A permission is void once its domain is gone; 4.17 lets it work for a namesake if the dead one was never "
    "introduced, if nothing was written in between, or if the transaction that set it is committed later.",
    "The root stays when the guest that owns it dies; 4.17 tries to remove it with all that is below it.",
    "The target of SET_TARGET can be released at once; 4.17 keeps it until the domain that targets it is gone.",
    "A ring that is begun anew has no half message; 4.17 goes on in the middle of it.",
    "A guest whose memory quota is used up is refused by our own count of bytes, which has no allocator's overhead.",
)
