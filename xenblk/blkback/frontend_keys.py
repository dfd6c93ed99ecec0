"""What a frontend publishes for its backend, read once and checked.

Every value comes from a guest: each is a PeerError with a sentence, or a number within its bounds.
Source: io/blkif.h (frontend XenBus nodes); the fallbacks are those of Linux's xen-blkback/xenbus.c.
"""

import dataclasses
from collections.abc import Callable

from xenblk.abi import EvtchnPort, GrantRef
from xenblk.blkback.parameters import BackendParameters
from xenblk.blkif import ABI_BY_PROTOCOL, Abi
from xenblk.errors import BlkifPeerError

U32_MAX = 0xFFFFFFFF

Reader = Callable[[str], str | None]


@dataclasses.dataclass(frozen=True, slots=True)
class FrontendKeys:
    """How to reach a frontend: its ring's pages in order, its event channel, its layout of requests."""

    ring_refs: list[GrantRef]
    event_channel: EvtchnPort
    abi: Abi
    persistent: bool


def parse_uint(key: str, text: str | None, maximum: int = U32_MAX) -> int:
    """A plain decimal number; BlkifPeerError if the key is missing, not a number or above `maximum`."""
    if text is None:
        raise BlkifPeerError(f"the frontend must write `{key}`, and did not")
    if not (text.isascii() and text.isdecimal()) or int(text) > maximum:
        raise BlkifPeerError(f"`{key}` is a number from 0 to {maximum}, not {text[:40]!r}")
    return int(text)


def read_frontend_keys(read: Reader, parameters: BackendParameters) -> FrontendKeys:
    """Read and check a frontend's keys; `read` gives a key's text, or None if there is no such key."""
    queues = read("multi-queue-num-queues")
    if queues is not None and parse_uint("multi-queue-num-queues", queues) != 1:
        raise BlkifPeerError(f"`multi-queue-num-queues` is at most 1, not {queues[:40]!r}")
    return FrontendKeys(
        ring_refs=_ring_refs(read, parameters.max_ring_page_order),
        event_channel=EvtchnPort(parse_uint("event-channel", read("event-channel"))),
        abi=_abi(read("protocol"), parameters.default_protocol),
        persistent=read("feature-persistent") == "1",
    )


def _ring_refs(read: Reader, max_order: int) -> list[GrantRef]:
    text = read("ring-page-order")
    order = 0 if text is None else parse_uint("ring-page-order", text)
    if order > max_order:
        raise BlkifPeerError(f"`ring-page-order` is at most {max_order}, not {order}")
    if order == 0:
        # With order 0 spelled out, Linux and QEMU expect ring-ref0, tapback and FreeBSD ring-ref: take either.
        single = read("ring-ref")
        return [GrantRef(parse_uint("ring-ref", single if single is not None else read("ring-ref0")))]
    keys = [f"ring-ref{i}" for i in range(1 << order)]
    return [GrantRef(parse_uint(key, read(key))) for key in keys]


def _abi(protocol: str | None, default: str) -> Abi:
    abi = ABI_BY_PROTOCOL.get(default if protocol is None else protocol)
    if abi is None:
        raise BlkifPeerError(f"`protocol` is one of {', '.join(sorted(ABI_BY_PROTOCOL))}, not {protocol!r}")
    return abi
