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


@dataclasses.dataclass(frozen=True)
class Avoided:
    """A difference that scripts keep off, and the test of what ours does there: its file below tests/ and its name."""

    reason: str
    test: str


def _asks_a_special_name(request: Packet, real: list[Packet]) -> bool:
    name = request.payload[:-1].decode("latin-1")
    return request.type == XsMsgType.GET_PERMS and name in SPECIAL and [p.payload for p in real] == [b"EINVAL\0"]


def _controls(request: Packet, command: bytes) -> bool:
    return request.type == XsMsgType.CONTROL and request.payload.startswith(command + b"\0")


def _without(pattern: bytes, packets: list[Packet]) -> list[Packet]:
    """Answers, without the lines that begin with a pattern."""
    return [packet._replace(payload=re.sub(rb"(?m)^" + pattern + rb".*\n", b"", packet.payload)) for packet in packets]


EXPLAINED: Final = (
    Explained(
        "GET_PERMS of @introduceDomain and @releaseDomain answers, as from Xen 4.20 on; 4.17 says EINVAL.",
        lambda request, ours, real: _asks_a_special_name(request, real),
    ),
    Explained(
        "CONTROL help names no live-update, which we do not have.",
        lambda request, ours, real: (
            _controls(request, b"help") and ours == _without(b"live-update", _without(b"    Default timeout", real))
        ),
    ),
    Explained(
        "CONTROL quota of a domain counts the bytes of its transactions without the real one's keys for their nodes.",
        lambda request, ours, real: (
            _controls(request, b"quota") and _without(b"memory +:", ours) == _without(b"memory +:", real)
        ),
    ),
    Explained(
        "RELEASE is answered after the events that it causes; 4.17 answers before them when the domain's connection is "
        "the next in its list, which it then holds on to.",
        lambda request, ours, real: request.type == XsMsgType.RELEASE and sorted(ours) == sorted(real),
    ),
)

AVOIDED: Final = (
    Avoided(
        "A path without its end, or with something after it, is EINVAL where one path is asked for; 4.17 answers with "
        "the error that came before, and dies if that was ENOENT.",
        "unit/xenstore/test_store.py::test_one_argument_with_its_end",
    ),
    Avoided(
        "SET_PERMS of a name with an @ says why it is refused; 4.17 answers with the error that came before, and dies "
        "if there was none.",
        "unit/xenstore/test_differences.py::test_permissions_of_names_that_mean_nothing",
    ),
    Avoided(
        "Paths of domain 0 may have 3072 characters, as the protocol says, whatever guests may have; 4.17 has one "
        "limit for both, 4.20 none for domain 0.",
        "unit/xenstore/test_differences.py::test_how_long_a_path_may_be",
    ),
    Avoided(
        "A permission's number is plain decimal, at most 65535; 4.17 takes what C's strtol takes, and keeps 32 bits.",
        "unit/xenstore/test_store.py::test_bad_permissions",
    ),
    Avoided(
        "A permission is void once its domain is gone; 4.17 lets it work for a namesake if the dead one was never "
        "introduced, if nothing was written in between, or if the transaction that set it is committed later.",
        "unit/xenstore/test_differences.py::test_a_namesake_gets_nothing",
    ),
    Avoided(
        "The root stays when the guest that owns it dies; 4.17 tries to remove it with all that is below it.",
        "unit/xenstore/test_domain_death.py::test_regression_the_root_of_a_domain_that_died",
    ),
    Avoided(
        "The target of SET_TARGET can be released at once; 4.17 keeps it until the domain that targets it is gone.",
        "unit/xenstore/test_differences.py::test_a_target_is_released_at_once",
    ),
    Avoided(
        "A ring that is begun anew has no half message; 4.17 goes on in the middle of it.",
        "integration/xenstore/test_ring.py::test_introduced_again_means_begun_anew",
    ),
    Avoided(
        "A guest whose memory quota is used up is refused by our own count of bytes, which has no allocator's "
        "overhead.",
        "unit/xenstore/test_quotas_sessions.py::test_memory_of_nodes",
    ),
)
