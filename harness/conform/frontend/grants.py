"""Cases for frontends: which pages are granted, for how long, and what is in them. Advisories by name."""

from concurrent.futures import Future
from typing import Any, Final

from xenblk.abi import PAGE_SIZE, SECTOR_SIZE, GrantRef
from xenblk.blkif import BlkifSegment, IndirectRequest, Request
from xenblk.harness.conform.case import expect, require
from xenblk.harness.conform.frontend.stage import FLUSH, FRONTEND, FrontendStage
from xenblk.harness.conform.frontend.subject import FrontendUnderTest

_SPEC: Final = "io/blkif.h, feature-persistent"
_POOL: Final = "Linux xen-blkfront.c, blkif_completion"
_KEEP: Final = {**FLUSH, "feature-persistent": "1"}


def _refs(segments: list[BlkifSegment]) -> list[GrantRef]:
    return [segment.gref for segment in segments]


def _persistent(stage: FrontendStage, **features: str) -> FrontendUnderTest:
    """A frontend that agreed to keep grants."""
    frontend = stage.connect({**_KEEP, **features})
    agreed = stage.backend.frontend_keys().get("feature-persistent") == "1"
    require(agreed, "this frontend does not keep grants")
    stage.keep = True
    return frontend


def _not_kept(number: int, front: bool, back: bool) -> None:
    told = f"frontend {int(front)}, backend {int(back)}"

    @FRONTEND.case(f"F-GRANT-{number:03}", f"not persistent ({told}): grants end with their request", _SPEC)
    def not_kept(stage: FrontendStage) -> None:
        features = {**FLUSH, "feature-persistent": str(int(back))}
        frontend = stage.connect(features) if front else stage.connect(features, feature_persistent=False)
        _ends_with_its_request(stage, frontend.read(0, 3 * PAGE_SIZE), for_writing=True)
        _ends_with_its_request(stage, frontend.write(0, bytes(3 * PAGE_SIZE)), for_writing=False)


def _ends_with_its_request(stage: FrontendStage, future: Future[Any], *, for_writing: bool) -> None:
    (request,) = stage.take()
    refs = _refs(list(stage.backend.segments(request)))
    expect(all(stage.backend.is_granted(ref, for_writing=for_writing) for ref in refs), "a page is not granted")
    stage.ring.answer(request)
    stage.finish(future, "the operation")
    left = [ref for ref in refs if stage.backend.is_granted(ref, for_writing=False)]
    expect(not left, f"references {left} are granted still")


_not_kept(1, front=True, back=False)
_not_kept(2, front=False, back=True)
_not_kept(3, front=False, back=False)


@FRONTEND.case("F-GRANT-004", "a grant that the backend keeps mapped is used again", _SPEC)
def kept(stage: FrontendStage) -> None:
    frontend = _persistent(stage)
    for n in range(20):
        stage.serve(frontend.read(n * PAGE_SIZE, PAGE_SIZE))
    expect(len(stage.backend.kept) == 1, f"20 reads, one at a time, used {len(stage.backend.kept)} pages")


@FRONTEND.case("F-GRANT-005", "the pages in use are as many as ever were at once", _POOL)
def working_set(stage: FrontendStage) -> None:
    frontend = _persistent(stage)
    for _ in range(6):
        reading = [frontend.read(n * PAGE_SIZE, PAGE_SIZE) for n in range(8)]
        for request in stage.take(8):
            stage.ring.answer(request, stage.carry_out(request))
        for future in reading:
            stage.finish(future, "a read")
    expect(len(stage.backend.kept) == 8, f"8 reads at a time used {len(stage.backend.kept)} pages")


@FRONTEND.case("F-GRANT-006", "the page used last is used first", _POOL)
def last_in_first_out(stage: FrontendStage) -> None:
    frontend = _persistent(stage)
    stage.serve(*[frontend.read(n * PAGE_SIZE, PAGE_SIZE) for n in range(4)])
    last = _refs(stage.segments_seen[-1])
    stage.serve(frontend.read(0, PAGE_SIZE))
    expect(_refs(stage.segments_seen[-1]) == last, "another page than the last one was taken")


@FRONTEND.case("F-GRANT-007", "kept grants are for writing, also those of writes", "io/blkif.h, note 8")
def writable(stage: FrontendStage) -> None:
    frontend = _persistent(stage)
    writing = frontend.write(0, bytes(PAGE_SIZE))
    (request,) = stage.take()
    for ref in _refs(list(stage.backend.segments(request))):
        expect(stage.backend.is_granted(ref, for_writing=True), f"reference {ref} is for reading only")
    stage.ring.answer(request)
    stage.finish(writing, "the write")


@FRONTEND.case("F-GRANT-008", "kept pages of descriptors are for writing, and used again", "io/blkif.h, note 8")
def descriptors(stage: FrontendStage) -> None:
    frontend = _persistent(stage, **{"feature-max-indirect-segments": "32"})
    for _ in range(4):
        stage.serve(frontend.write(0, bytes(32 * PAGE_SIZE)))
    require(any(isinstance(r, IndirectRequest) for r in stage.seen), "this frontend sends no indirect requests")
    expect(len(stage.backend.kept) <= 33, f"{len(stage.backend.kept)} pages for 32 of data and one of descriptors")


@FRONTEND.case("F-GRANT-009", "a backend may unmap a kept page at any time", _SPEC)
def unmaps(stage: FrontendStage) -> None:
    frontend = _persistent(stage)
    for n in range(10):
        stage.expect_working(frontend)
        if n % 3 == 0:
            stage.backend.let_go()


@FRONTEND.case("F-GRANT-010", "a backend that keeps nothing, though it said so, is served", _SPEC)
def keeps_nothing(stage: FrontendStage) -> None:
    frontend = _persistent(stage)
    stage.keep = False
    for n in range(10):
        data = bytes([n + 1]) * (5 * PAGE_SIZE)
        stage.serve(frontend.write(n * PAGE_SIZE, data))
        expect(stage.image[n * PAGE_SIZE : n * PAGE_SIZE + len(data)] == data, "the data arrived otherwise")


@FRONTEND.case("F-GRANT-011", "`feature-persistent` is read once per connection", _SPEC)
def flips(stage: FrontendStage) -> None:
    frontend = _persistent(stage)
    stage.expect_working(frontend)
    stage.backend.write({"feature-persistent": "0"})
    stage.backend.switch("4")
    stage.wait_quietly()
    stage.expect_working(frontend)
    expect(len(stage.backend.kept) == 1, "a live connection changed its mind")


@FRONTEND.case("F-GRANT-012", "a page kept without persistence: the device is disabled", _POOL)
def kept_unasked(stage: FrontendStage) -> None:
    frontend = stage.connect()
    reading = frontend.read(0, PAGE_SIZE)
    (request,) = stage.take()
    for ref in _refs(list(stage.backend.segments(request))):
        stage.backend.keep(ref)
    stage.ring.answer(request)
    stage.end_of(reading, "the read")  # its data arrived, or the fault was seen with it: either is right
    stage.expect_disabled(frontend)


# What is in a page


def _outside(stage: FrontendStage, request: Request) -> bytes:
    """What the backend sees of pages beside the request's own data."""
    found = b""
    for segment in stage.backend.segments(request):
        page = stage.backend.read_page(segment.gref)
        found += page[: segment.first_sect * SECTOR_SIZE] + page[(segment.last_sect + 1) * SECTOR_SIZE :]
    return found


def _zeroed(stage: FrontendStage, frontend: FrontendUnderTest) -> None:
    for count in (1, 3, 5):
        writing = frontend.write(0, b"\x5a" * count * SECTOR_SIZE)
        (request,) = stage.take()
        beside = _outside(stage, request).replace(b"\x5a", b"\0")
        expect(not any(beside), "other data of the guest lies in a granted page")
        stage.ring.answer(request)
        stage.finish(writing, "the write")


@FRONTEND.case("F-XSA-403-1", "a pool page is zero when it is granted first", "XSA-403, CVE-2022-26365")
def zero_pool(stage: FrontendStage) -> None:
    frontend = _persistent(stage)
    reading = [frontend.read(n * PAGE_SIZE, PAGE_SIZE) for n in range(32)]
    for request in stage.take(32):
        content = b"".join(stage.backend.read_page(s.gref) for s in stage.backend.segments(request))
        expect(not any(content), "a page of the pool held something when it was granted")
        stage.ring.answer(request)
    for future in reading:
        stage.finish(future, "a read")


@FRONTEND.case("F-XSA-403-2", "beside a write's data nothing is shown, grants kept", "XSA-403, CVE-2022-33740")
def nothing_beside_kept(stage: FrontendStage) -> None:
    _zeroed(stage, _persistent(stage))


@FRONTEND.case(
    "F-XSA-403-3", "beside a write's data nothing is shown to a backend that is not trusted", "XSA-403, `trusted`"
)
def nothing_beside_untrusted(stage: FrontendStage) -> None:
    require("trusted" in stage.kind.options, "this frontend trusts every backend")
    stage.backend.store.write(f"{stage.backend.frontend_path}/trusted", "0")
    _zeroed(stage, stage.connect())


@FRONTEND.case("F-XSA-403-4", "pages of an old pool show nothing in a new one", "XSA-403, CVE-2022-33741")
def zero_again(stage: FrontendStage) -> None:
    frontend = _persistent(stage)
    stage.serve(*[frontend.write(n * PAGE_SIZE, b"\xee" * PAGE_SIZE) for n in range(8)])
    stage.leave(frontend)
    stage.begin_again()
    second = _persistent(stage)
    reading = [second.read(n * PAGE_SIZE, PAGE_SIZE) for n in range(8)]
    for request in stage.take(8):
        content = b"".join(stage.backend.keep(s.gref)[:] for s in stage.backend.segments(request))
        expect(not any(content), "a page of the new pool holds what the old one did")
        stage.ring.answer(request)
    for future in reading:
        stage.finish(future, "a read")


@FRONTEND.case("F-XSA-396", "a page that the backend still maps is never used again", "XSA-396, CVE-2022-23036")
def mapped_page(stage: FrontendStage) -> None:
    frontend = _persistent(stage)
    stage.serve(*[frontend.write(n * PAGE_SIZE, b"\xcc" * PAGE_SIZE) for n in range(4)])
    held = {ref: stage.backend.map(ref) for ref in stage.backend.kept}
    before = {ref: bytes(mapping.page or b"") for ref, mapping in held.items()}
    stage.leave(frontend)
    stage.begin_again()
    second = stage.connect()
    stage.serve(*[second.write(n * PAGE_SIZE, b"\x33" * PAGE_SIZE) for n in range(32)])
    after = {ref: bytes(mapping.page or b"") for ref, mapping in held.items()}
    for mapping in held.values():
        stage.backend.unmap(mapping)
    expect(before == after, "pages that an old connection's backend still maps hold data of the new one")
