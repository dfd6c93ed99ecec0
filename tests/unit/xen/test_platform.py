"""A process's access to real Xen, as far as it goes without one."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from xenblk.abi import DOM0, Domid
from xenblk.errors import HostError
from xenblk.xen import run_dir
from xenblk.xen.devices import Devices
from xenblk.xen.platform import XenPlatform
from xenblk.xenstore.client import Xenstore


@pytest.fixture
def platform(devices: Devices, store_path: Path) -> Iterator[XenPlatform]:
    with Xenstore(str(store_path)) as store:
        store.write("/local/domain/0/domid", "0")
    platform = XenPlatform(devices=devices, run_dir=devices.root / "run/xenblk")
    yield platform
    platform.close()


def test_it_is_the_domain_that_it_runs_in(platform: XenPlatform, devices: Devices) -> None:
    assert platform.domid == DOM0
    with pytest.raises(HostError, match="runs in domain 0, and cannot act for domain 3"):
        XenPlatform(Domid(3), devices=devices)
    with platform.xenstore() as store:
        assert store.read("/local/domain/0/domid") == "0"


def test_devices_are_missed_when_they_are_needed(platform: XenPlatform) -> None:
    with pytest.raises(HostError, match="gntdev"):
        _ = platform.mapper
    with pytest.raises(HostError, match="evtchn"):
        platform.alloc_unbound(Domid(1))
    with pytest.raises(HostError, match="evtchn"):
        platform.bind_interdomain(Domid(1), 3)


def test_a_mapper_and_a_domain(platform: XenPlatform, devices: Devices) -> None:
    devices.path("gntdev").touch()
    domain = platform.foreign_domain(Domid(7))
    assert platform.mapper is platform.mapper
    (mapping,) = platform.mapper.map(domain, [9])
    assert mapping.page is None, "a file maps nothing"
    assert platform.mapper.mapped_pages == 0
    platform.release_domain(domain)


def test_counters_go_on_after_a_process_that_died(platform: XenPlatform) -> None:
    first = platform.counters("vbd-0-1-51712-0.back")
    first.map_pages, first.persistent_current, first.rd_req = 9, 4, 3
    second = platform.counters("vbd-0-1-51712-0.back")
    assert (second.map_pages, second.unmap_pages, second.persistent_current, second.rd_req) == (9, 9, 0, 3)
    assert [path.name for path in platform.counters_dir().iterdir()] == ["vbd-0-1-51712-0.back"]
    first.close()
    second.close()
    with pytest.raises(HostError, match="counters are named"):
        platform.counters("../x")


def test_a_run_directory_that_cannot_be_made(devices: Devices, store_path: Path, platform: XenPlatform) -> None:
    (devices.root / "file").touch()
    broken = XenPlatform(devices=devices, run_dir=devices.root / "file/below")
    with pytest.raises(HostError, match=r"the run directory .*file/below cannot be used"):
        broken.counters("x")
    broken.close()


def test_where_the_counters_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XENBLK_RUN_DIR", raising=False)
    assert run_dir() == Path("/run/xenblk")
    monkeypatch.setenv("XENBLK_RUN_DIR", "/elsewhere")
    assert run_dir() == Path("/elsewhere")
