"""What a frontend publishes for its backend, read once and checked.

Every value comes from a guest: each is a PeerError with a sentence, or a number within its bounds. Where Linux's
blkback has words for what is wrong, a sentence begins with them.
Source: io/blkif.h (frontend XenBus nodes); the fallbacks are those of Linux's xen-blkback/xenbus.c.
"""

import dataclasses
import errno
from collections.abc import Callable
from typing import Final

from xenblk.abi import EvtchnPort, GrantRef
from xenblk.blkback.parameters import BackendParameters
from xenblk.blkif import ABI_BY_PROTOCOL, Abi
from xenblk.errors import BlkifPeerError
from xenblk.xenstore.client import XenstoreTransaction

U32_MAX: Final = 0xFFFFFFFF

Reader = Callable[[str], str | None]


class FrontendKeyError(BlkifPeerError):
    """A key that no connection can be made with; `number` is the errno that Linux gives for it."""

    def __init__(self, message: str, number: int = errno.EINVAL) -> None:
        super().__init__(message)
        self.number = number


@dataclasses.dataclass(frozen=True, slots=True)
class QueueKeys:
    """How to reach one queue: its ring's pages in order, and its event channel."""

    ring_refs: list[GrantRef]
    event_channel: EvtchnPort


@dataclasses.dataclass(frozen=True, slots=True)
class FrontendKeys:
    """How to reach a frontend: its queues, at least one, and its layout of requests."""

    queues: list[QueueKeys]
    abi: Abi
    persistent: bool


def parse_uint(key: str, text: str | None, maximum: int = U32_MAX) -> int:
    """A plain decimal number; FrontendKeyError if the key is missing, not a number or above `maximum`."""
    if text is None:
        raise FrontendKeyError(f"reading {key}: the frontend must write `{key}`, and did not")
    if not (text.isascii() and text.isdecimal() and len(text) <= 20) or int(text) > maximum:
        raise FrontendKeyError(f"reading {key}: `{key}` is a number from 0 to {maximum}, not {text[:40]!r}")
    return int(text)


def read_frontend_keys(read: Reader, parameters: BackendParameters) -> FrontendKeys:
    """Read and check a frontend's keys; `read` gives a key's text, or None if there is no such key."""
    nr_queues, nr_pages = _nr_queues(read, parameters.max_queues), _nr_pages(read, parameters.max_ring_page_order)
    # The keys of one queue stand where they stood before there were several, also if its number is written.
    folders = [""] if nr_queues == 1 else [f"queue-{n}/" for n in range(nr_queues)]
    return FrontendKeys(
        queues=[_queue(read, folder, nr_pages) for folder in folders],
        abi=_abi(read("protocol"), parameters.default_protocol),
        persistent=read("feature-persistent") == "1",
    )


def read_keys(transaction: XenstoreTransaction, frontend_path: str, parameters: BackendParameters) -> FrontendKeys:
    """The same from the frontend's directory in xenstore."""
    return read_frontend_keys(lambda key: transaction.read(f"{frontend_path}/{key}", "") or None, parameters)


def _nr_queues(read: Reader, most: int) -> int:
    key = "multi-queue-num-queues"
    text = read(key)
    number = 1 if text is None else parse_uint(key, text)
    if not 1 <= number <= most:
        raise FrontendKeyError(f"guest requested {number} queues: `{key}` is 1 to {most}", errno.ENOSYS)
    return number


def _nr_pages(read: Reader, max_order: int) -> int:
    """Pages of each ring, by either dialect; what `ring-page-order` says goes before `num-ring-pages`."""
    order, number = read("ring-page-order"), read("num-ring-pages")
    if order is not None:
        if (log2 := parse_uint("ring-page-order", order)) > max_order:
            raise FrontendKeyError(f"requested ring page order {log2}: `ring-page-order` is at most {max_order}")
        return 1 << log2
    pages = 1 if number is None else parse_uint("num-ring-pages", number)
    if not 1 <= pages <= 1 << max_order or pages & (pages - 1):
        raise FrontendKeyError(f"`num-ring-pages` is a power of two from 1 to {1 << max_order}, not {pages}")
    return pages


def _queue(read: Reader, folder: str, nr_pages: int) -> QueueKeys:
    channel = f"{folder}event-channel"
    port = EvtchnPort(parse_uint(channel, read(channel)))
    return QueueKeys([GrantRef(ref) for ref in _ring_refs(read, folder, nr_pages)], port)


def _ring_refs(read: Reader, folder: str, nr_pages: int) -> list[int]:
    keys = [f"{folder}ring-ref{i}" for i in range(nr_pages)]
    single = f"{folder}ring-ref"
    # With one page spelled out, Linux and QEMU expect ring-ref0, tapback and FreeBSD ring-ref: take either.
    if nr_pages == 1 and (read(single) is not None or read(keys[0]) is None):
        keys = [single]
    return [parse_uint(key, read(key)) for key in keys]


def _abi(protocol: str | None, default: str) -> Abi:
    abi = ABI_BY_PROTOCOL.get(default if protocol is None else protocol)
    if abi is None:
        raise FrontendKeyError(
            f"unknown fe protocol {str(protocol)[:40]!r}: `protocol` is one of {', '.join(sorted(ABI_BY_PROTOCOL))}",
            errno.ENOSYS,
        )
    return abi
