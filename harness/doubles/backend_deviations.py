"""Which cases for backends each known backend does not pass. Sources are named in `backend_quirks.py`."""

from collections.abc import Mapping
from typing import Final

from xenblk.harness.doubles.deviations import EITHER, FAIL, NOT_OFFERED, Deviations, rows, union

_PROBE: Final = "Linux xen-blkback/xenbus.c xen_blkbk_probe, connect"
_CONNECT_RING: Final = "Linux xen-blkback/xenbus.c connect_ring"
_QEMU_REALIZE: Final = "QEMU hw/block/xen-block.c xen_block_realize"
_QEMU_CONNECT: Final = "QEMU hw/block/xen-block.c xen_block_connect"
_QEMU_PARSE: Final = "QEMU hw/block/dataplane/xen-block.c xen_block_parse_request"
_QEMU_RING: Final = "QEMU hw/block/dataplane/xen-block.c xen_block_handle_requests"
_QEMU_STATES: Final = "QEMU hw/block/xen-block.c xen_block_frontend_changed"
_TAPBACK_NODES: Final = "blktap tapback/frontend.c connect_frontend, tapback/backend.c"
_TAPBACK_RING: Final = "blktap tapback/frontend.c connect_tap"
_TAPBACK_STATES: Final = "blktap tapback/frontend.c frontend_changed"
_TD_REQ: Final = "blktap drivers/td-req.c tapdisk_xenblkif_make_vbd_request"
_TD_RING: Final = "blktap drivers/td-ctx.c xenio_blkif_get_requests"
_FREEBSD_NODES: Final = "FreeBSD sys/dev/xen/blkback/blkback.c xbb_attach, xbb_publish_backend_info"
_FREEBSD_RING: Final = "FreeBSD sys/dev/xen/blkback/blkback.c xbb_collect_frontend_info"
_FREEBSD_DISPATCH: Final = "FreeBSD sys/dev/xen/blkback/blkback.c xbb_dispatch_io"
_FREEBSD_QUEUE: Final = "FreeBSD sys/dev/xen/blkback/blkback.c xbb_run_queue"

_SMALL_SECTORS: Final = rows(
    NOT_OFFERED, "B-WRITE-008", "the disk has sectors of 512 bytes", "sector-size is the disk's"
)


def _has(flush: bool, barrier: bool, discard: bool, source: str) -> Deviations:
    """What a backend has, the cases for those without are not about."""
    cases = [("B-FLUSH-007", flush), ("B-BARRIER-007", barrier), ("B-DISCARD-010", discard)]
    ids = " ".join(case for case, has in cases if has)
    return rows(NOT_OFFERED, ids, "it has what the case is about the lack of", source)


def _no_discard(source: str) -> Deviations:
    return rows(NOT_OFFERED, "B-DISCARD-001..009 B-DISCARD-011..012", "it does not discard", source)


def _one_queue(nodes: str, ring: str) -> Deviations:
    return union(
        rows(FAIL, "B-HAND-018", "it knows of no queues and writes no multi-queue-max-queues", nodes),
        rows(FAIL, "B-KEYS-010..011", "it does not read multi-queue-num-queues", ring),
        rows(NOT_OFFERED, "B-QUEUE-001..009", "it knows of no queues", nodes),
    )


def _plain(nodes: str) -> Deviations:
    """Nothing but direct requests, and pages for no longer than these take."""
    return union(
        rows(
            NOT_OFFERED,
            "B-INDIRECT-001..021 B-INDIRECT-023..024 B-XSA155-003",
            "it writes no feature-max-indirect-segments",
            nodes,
        ),
        rows(
            NOT_OFFERED,
            "B-PERSIST-001..003 B-PERSIST-007..014",
            "it writes no feature-persistent and keeps no page",
            nodes,
        ),
    )


def _begins_at_zero(source: str) -> Deviations:
    why = "a ring begins at 0, whatever its indexes are"
    return union(
        rows(FAIL, "B-RING-006..007 B-RING-010 B-RING-012", why, source),
        # From 0 to a req_prod near the wrap it answers what is no request, and the case's own among it.
        rows(EITHER, "B-RING-008", why, source),
    )


def _trusts_req_prod(source: str) -> Deviations:
    return rows(FAIL, "B-RING-013..017", "a req_prod that cannot be is believed: old slots are answered", source)


def _silent(cases: str, source: str) -> Deviations:
    return rows(FAIL, cases, "a frontend that is refused is not told: the reason is in a log only", source)


def _no_resize(source: str) -> Deviations:
    return rows(NOT_OFFERED, "B-LIFE-010", "it is not aware that its disk grew", source)


def _no_old_dialect(source: str) -> Deviations:
    return rows(NOT_OFFERED, "B-KEYS-018", "it writes no max-ring-pages", source)


def _ignores_states(source: str) -> Deviations:
    return rows(
        FAIL,
        "B-HAND-010..012 B-HAND-017 B-HAND-022",
        "a frontend in a state that it may not be in is ignored",
        source,
    )


def _unknown_is_error(source: str) -> Deviations:
    return rows(FAIL, "B-CHECK-001..004 B-CHECK-027", "an unknown operation is answered ERROR", source)


def _order_zero(source: str) -> Deviations:
    return rows(FAIL, "B-KEYS-017", "with ring-page-order 0 spelled out it wants ring-ref0", source)


def _no_ring_ref0(source: str) -> Deviations:
    return rows(
        FAIL, "B-KEYS-016", "for one page it wants ring-ref, whether or not ring-page-order stands there", source
    )


def _native(source: str) -> Deviations:
    return rows(FAIL, "B-KEYS-027", "a missing protocol means its own layout", source)


BACKEND_DEVIATIONS: Final[Mapping[str, Deviations]] = {
    "linux": union(
        _order_zero("Linux xen-blkback/xenbus.c read_per_ring_refs"),
        _has(flush=True, barrier=True, discard=True, source=_PROBE),
        rows(NOT_OFFERED, "B-DISCARD-006", "discard-secure is 0 on a disk that cannot", "Linux xen_blkbk_discard"),
        rows(NOT_OFFERED, "B-INDIRECT-020", "256 segments are in one indirect page", "Linux MAX_INDIRECT_SEGMENTS"),
        rows(NOT_OFFERED, "B-INDIRECT-022", "it has indirect requests", _PROBE),
        rows(NOT_OFFERED, "B-PERSIST-006", "it keeps pages", _CONNECT_RING),
        _no_old_dialect(_PROBE),
        _SMALL_SECTORS,
    ),
    "qemu": union(
        _unknown_is_error(_QEMU_PARSE),
        rows(FAIL, "B-CHECK-005..006", "a request of no segments is done", _QEMU_PARSE),
        rows(FAIL, "B-FLUSH-005", "a flush of no segments is done on a read-only disk, too", _QEMU_PARSE),
        rows(FAIL, "B-CHECK-017", "a sector's number times its size wraps, so 1 << 55 is sector 0", _QEMU_PARSE),
        _one_queue(_QEMU_REALIZE, _QEMU_CONNECT),
        _ignores_states(_QEMU_STATES),
        _order_zero(_QEMU_CONNECT),
        _native(_QEMU_CONNECT),
        _begins_at_zero("QEMU hw/block/dataplane/xen-block.c xen_block_dataplane_start"),
        _trusts_req_prod(_QEMU_RING),
        _silent("B-KEYS-001..007 B-KEYS-009 B-KEYS-012..015 B-KEYS-025..026", _QEMU_STATES),
        rows(FAIL, "B-KEYS-008", "an unknown protocol means its own layout", _QEMU_CONNECT),
        rows(FAIL, "B-HAND-019", "it has no barriers and writes no feature-barrier", _QEMU_REALIZE),
        rows(NOT_OFFERED, "B-BARRIER-001..006", "it has no barriers", _QEMU_REALIZE),
        rows(NOT_OFFERED, "B-DISCARD-006", "it writes no discard-secure", _QEMU_REALIZE),
        _has(flush=True, barrier=False, discard=True, source=_QEMU_REALIZE),
        _plain(_QEMU_REALIZE),
        _no_resize("QEMU hw/block/xen-block.c xen_block_resize_cb, which its monitor's block_resize calls"),
        _no_old_dialect(_QEMU_REALIZE),
        _SMALL_SECTORS,
    ),
    "tapdisk": union(
        rows(FAIL, "B-CHECK-009", "a flush is an unknown operation, whatever else is wrong with it", _TD_REQ),
        rows(FAIL, "B-BARRIER-005", "a barrier of no segments is done on a read-only disk, too", _TD_REQ),
        rows(FAIL, "B-HAND-020", "it has no flush and writes no feature-flush-cache", _TAPBACK_NODES),
        rows(NOT_OFFERED, "B-FLUSH-001..006", "it has no flush", _TAPBACK_NODES),
        rows(FAIL, "B-KEYS-021", "a feature-persistent that is neither 0 nor 1 is refused", _TAPBACK_RING),
        rows(NOT_OFFERED, "B-ABI-015 B-ABI-020", "its rings have 8 pages at most", _TAPBACK_NODES),
        _one_queue(_TAPBACK_NODES, _TAPBACK_RING),
        _ignores_states(_TAPBACK_STATES),
        _no_ring_ref0(_TAPBACK_RING),
        _begins_at_zero("blktap drivers/td-blkif.c, BACK_RING_INIT"),
        _trusts_req_prod(_TD_RING),
        _silent("B-KEYS-001..009 B-KEYS-012..015 B-KEYS-025..026", _TAPBACK_STATES),
        rows(
            FAIL,
            "B-HAND-013",
            "a state that is no number is ignored",
            "blktap tapback/frontend.c tapback_backend_handle_otherend_watch",
        ),
        _has(flush=False, barrier=True, discard=False, source=_TAPBACK_NODES),
        _no_discard(_TAPBACK_NODES),
        _plain(_TAPBACK_NODES),
        _no_resize("blktap, which resizes when tap-ctl says so"),
        _no_old_dialect(_TAPBACK_NODES),
        _SMALL_SECTORS,
    ),
    "freebsd": union(
        _unknown_is_error(_FREEBSD_DISPATCH),
        rows(
            FAIL,
            "B-CHECK-009 B-FLUSH-002 B-FLUSH-004..005 B-XSA142-001..003",
            "a flush is done before any check, on a read-only file, too, and its data is not written",
            _FREEBSD_DISPATCH,
        ),
        rows(
            FAIL, "B-BARRIER-001 B-BARRIER-003", "a barrier is a write, and one of no segments fails", _FREEBSD_DISPATCH
        ),
        _one_queue(_FREEBSD_NODES, _FREEBSD_RING),
        _no_ring_ref0(_FREEBSD_RING),
        _begins_at_zero("FreeBSD sys/dev/xen/blkback/blkback.c xbb_connect_ring"),
        _trusts_req_prod(_FREEBSD_QUEUE),
        _native(_FREEBSD_RING),
        _has(flush=True, barrier=True, discard=False, source=_FREEBSD_NODES),
        _no_discard(_FREEBSD_NODES),
        _plain(_FREEBSD_NODES),
        _no_resize("FreeBSD sys/dev/xen/blkback/blkback.c xbb_open_backend, which looks once"),
        _no_old_dialect(_FREEBSD_NODES),
        _SMALL_SECTORS,
    ),
}
"""By the double's name."""
