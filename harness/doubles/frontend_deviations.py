"""Which cases for frontends each known frontend does not pass. Sources are named in `frontend_quirks.py`."""

from collections.abc import Mapping
from typing import Final

from xenblk.harness.doubles.deviations import EITHER, FAIL, NOT_OFFERED, Deviations, rows, union

_LINUX: Final = "Linux drivers/block/xen-blkfront.c"
_EDK2: Final = "edk2 OvmfPkg/XenPvBlkDxe/BlockFront.c"
_MINI_OS: Final = "mini-os blkfront.c"
_UNIKRAFT: Final = "Unikraft drivers/xen/blkfront/blkfront.c"
_UNIKRAFT_XS: Final = "Unikraft drivers/xen/blkfront/blkfront_xs.c"
_NETBSD: Final = "NetBSD sys/arch/xen/xen/xbd_xenbus.c"
_XENVBD: Final = "win-xenvbd src/xenvbd"


def _no_order(source: str) -> Deviations:
    return rows(
        NOT_OFFERED,
        "F-KEYS-005 F-KEYS-011..014 F-KEYS-020..021 F-KEYS-033 F-RING-002..003 F-RING-005 F-RING-020",
        "its user cannot choose the ring's size",
        source,
    )


def _no_queues(source: str) -> Deviations:
    return rows(NOT_OFFERED, "F-KEYS-030..032", "it has one queue", source)


def _keeps_nothing(source: str) -> Deviations:
    return rows(
        NOT_OFFERED,
        "F-KEYS-041 F-GRANT-002..011 F-XSA-396 F-XSA-403-1 F-XSA-403-2 F-XSA-403-3 F-XSA-403-4",
        "it keeps no grants, and trusts every backend",
        source,
    )


def _no_indirect(source: str) -> Deviations:
    return rows(NOT_OFFERED, "F-REQ-022..026 F-RESP-008..009", "it sends no indirect requests", source)


def _no_discard(source: str) -> Deviations:
    return rows(NOT_OFFERED, "F-REQ-060..061 F-LIFE-004", "it does not discard", source)


def _no_recovery(source: str) -> Deviations:
    return rows(NOT_OFFERED, "F-LIFE-040..043", "a backend that went away is not waited for", source)


def _believes(source: str, several: str = "F-RESP-030..031") -> Deviations:
    return union(
        rows(
            FAIL,
            f"F-RESP-020..029 F-RESP-033 F-GRANT-012 {several}",
            "it takes the backend's word for indexes, ids and operations",
            source,
        ),
        rows(EITHER, "F-RESP-032" if several else "", "it takes the word for ids, whichever it reads first", source),
    )


def _no_resize(source: str) -> Deviations:
    return rows(FAIL, "F-LIFE-010..011", "it reads the disk's size once", source)


def _deaf(source: str, cases: str = "F-LIFE-022..027") -> Deviations:
    return rows(FAIL, cases, "it does not look at the backend's state while it is connected", source)


def _large_units(cases: str, source: str) -> Deviations:
    return rows(FAIL, cases, "with sectors of 4096 bytes it counts in these", source)


FRONTEND_DEVIATIONS: Final[Mapping[str, Deviations]] = {
    "linux": union(
        rows(
            FAIL,
            "F-RESP-009 F-RESP-020..031 F-RESP-033 F-GRANT-012",
            "the device is disabled, and what is in flight never ends",
            f"{_LINUX} blkif_interrupt",
        ),
        rows(
            EITHER,
            "F-RESP-032",
            "where it sees the wrong id, what is in flight never ends",
            f"{_LINUX} blkif_interrupt",
        ),
        rows(FAIL, "F-LIFE-002", "a failed empty flush counts as one that is not known", f"{_LINUX} blkif_interrupt"),
        rows(
            FAIL,
            "F-LIFE-023 F-LIFE-025..027",
            "what is in flight when the backend closes or goes never ends",
            f"{_LINUX} blkfront_closing, blkback_changed",
        ),
        rows(NOT_OFFERED, "F-LIFE-040..043", "it recovers when it is resumed, not when the backend closes", _LINUX),
    ),
    "edk2": union(
        rows(
            NOT_OFFERED,
            "F-REQ-007..008 F-RING-001 F-RING-012..013 F-RING-015..016 F-RESP-001..005 F-RESP-030..032 F-LIFE-023"
            " F-LIFE-025..026",
            "it has one request in flight, and waits for it",
            f"{_EDK2} XenPvBlockIo",
        ),
        _no_order(_EDK2),
        _no_queues(_EDK2),
        _keeps_nothing(_EDK2),
        _no_indirect(_EDK2),
        _no_discard(_EDK2),
        _no_recovery(_EDK2),
        _believes(f"{_EDK2} XenPvBlockAsyncIoPoll", several=""),
        _no_resize(f"{_EDK2} XenPvBlockFrontInitialization"),
        _deaf(_EDK2, "F-LIFE-022 F-LIFE-024 F-LIFE-027"),
        rows(FAIL, "F-STATE-031..032", "what is no number is 0", f"{_EDK2} XenBusReadUint64"),
        _large_units("F-REQ-040", "edk2 OvmfPkg/XenPvBlkDxe/XenPvBlkDxe.c XenPvBlkDxeDriverBindingStart"),
        rows(FAIL, "F-LIFE-001..003", "what becomes of a flush is only logged", f"{_EDK2} XenPvBlockSync"),
    ),
    "mini-os": union(
        _no_order(_MINI_OS),
        _no_queues(_MINI_OS),
        _keeps_nothing(_MINI_OS),
        _no_indirect(_MINI_OS),
        _no_discard(_MINI_OS),
        _no_recovery(_MINI_OS),
        _believes(f"{_MINI_OS} blkfront_aio_poll"),
        _no_resize(f"{_MINI_OS} init_blkfront"),
        _deaf(_MINI_OS),
        rows(
            FAIL, "F-STATE-030..034", "a missing number is -1, what is none is anything", "mini-os xenbus_read_integer"
        ),
        _large_units("F-REQ-040", f"{_MINI_OS} blkfront_posix_rwop"),
        rows(FAIL, "F-LIFE-001..003", "what becomes of a flush is only logged", f"{_MINI_OS} blkfront_sync"),
    ),
    "unikraft": union(
        _no_order(_UNIKRAFT),
        _keeps_nothing(_UNIKRAFT),
        _no_indirect(_UNIKRAFT),
        _no_discard(_UNIKRAFT),
        _no_recovery(_UNIKRAFT),
        _believes(f"{_UNIKRAFT} blkfront_queue_dequeue"),
        _no_resize(f"{_UNIKRAFT_XS} blkfront_xb_get_capabilities"),
        _deaf(_UNIKRAFT_XS),
        rows(
            FAIL,
            "F-STATE-031..032",
            "what is no number leaves 0, -1 is the largest number",
            f"{_UNIKRAFT_XS} blkfront_xb_get_capabilities; drivers/xen/xenbus/xs.c xs_scanf",
        ),
        rows(
            FAIL,
            "F-KEYS-001..002",
            "`protocol` is left to the toolstack",
            f"{_UNIKRAFT_XS} blkfront_xb_write_ring_info",
        ),
        rows(
            FAIL,
            "F-KEYS-062",
            "a multi-queue-max-queues that is no number offers it no queue",
            f"{_UNIKRAFT_XS} blkfront_xb_get_nb_max_queues; lib/ukblkdev/blkdev.c uk_blkdev_configure",
        ),
        _large_units("F-REQ-040..041", f"{_UNIKRAFT} blkif_request_init"),
        rows(FAIL, "F-REQ-051", "a flush that is not offered is an error", f"{_UNIKRAFT} blkfront_request_flush"),
        rows(FAIL, "F-REQ-070", "`mode` is what it reads, not `info`", f"{_UNIKRAFT_XS} blkfront_xb_get_capabilities"),
        rows(
            FAIL,
            "F-LIFE-001 F-LIFE-003",
            "a flush answered EOPNOTSUPP is an error",
            f"{_UNIKRAFT} blkfront_queue_dequeue",
        ),
    ),
    "netbsd": union(
        _no_order(_NETBSD),
        _no_queues(_NETBSD),
        _keeps_nothing(_NETBSD),
        _no_indirect(_NETBSD),
        _no_discard(_NETBSD),
        _no_recovery(_NETBSD),
        _believes(f"{_NETBSD} xbd_handler"),
        _no_resize(f"{_NETBSD} xbd_backend_changed"),
        rows(FAIL, "F-STATE-017..018", "a state that it does not know is a panic", f"{_NETBSD} xbd_backend_changed"),
        rows(FAIL, "F-STATE-032", "-1 is the largest number", "NetBSD sys/arch/xen/xenbus/xenbus_xs.c xenbus_read_ull"),
        rows(FAIL, "F-REQ-006", "a write is cut at the end of the disk", f"{_NETBSD} xbdstart"),
        _large_units("F-REQ-040", f"{_NETBSD} xbd_backend_changed"),
        rows(FAIL, "F-REQ-042", "what is asked for is sent, aligned or not", f"{_NETBSD} xbdstart"),
        rows(
            FAIL,
            "F-REQ-051..052",
            "a flush is an error where feature-flush-cache is not offered",
            f"{_NETBSD} xbdioctl, DIOCCACHESYNC",
        ),
        rows(FAIL, "F-LIFE-001", "a flush answered EOPNOTSUPP is an error", f"{_NETBSD} xbdioctl, DIOCCACHESYNC"),
        rows(NOT_OFFERED, "F-LIFE-003", "it sends no barriers", _NETBSD),
        rows(
            FAIL,
            "F-LIFE-023 F-LIFE-025",
            "what is in flight when the backend closes is waited for",
            f"{_NETBSD} xbd_backend_changed, xbd_xenbus_detach",
        ),
        rows(FAIL, "F-LIFE-026", "a backend whose nodes are gone is waited for", f"{_NETBSD} xbd_backend_changed"),
    ),
    "xenvbd": union(
        _no_order(f"{_XENVBD}/blockring.c BlockRingConnect"),
        _no_queues(f"{_XENVBD}/frontend.c"),
        _keeps_nothing(f"{_XENVBD}/granter.c"),
        _no_recovery(f"{_XENVBD}/frontend.c"),
        _believes(f"{_XENVBD}/blockring.c BlockRingPoll", several="F-RESP-009 F-RESP-030..031"),
        _deaf(f"{_XENVBD}/frontend.c __CheckBackendForEject, which acts if `online` is 0"),
        rows(
            FAIL,
            "F-STATE-030..032",
            "a size that is missing, or is no number, is 0, and -1 is the largest",
            f"{_XENVBD}/frontend.c FrontendReadValue64",
        ),
        rows(
            NOT_OFFERED,
            "F-KEYS-004",
            "its ring is as large as the backend allows",
            f"{_XENVBD}/blockring.c BlockRingConnect",
        ),
        rows(FAIL, "F-KEYS-042", "feature-large-sector-size is written", f"{_XENVBD}/frontend.c"),
        _large_units("F-REQ-040..041", f"{_XENVBD}/frontend.c __ReadDiskInfo"),
        rows(FAIL, "F-RESP-002 F-LIFE-004", "whatever is answered EOPNOTSUPP is a success", f"{_XENVBD}/target.c"),
    ),
}
"""By the double's name."""
