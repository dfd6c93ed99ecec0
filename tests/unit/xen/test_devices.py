"""What is said of a device that cannot be had, and how a process finds out that it runs under Xen."""

import os

import pytest

from xenblk.errors import HostError
from xenblk.xen.devices import Devices


def test_no_xen_at_all(devices: Devices) -> None:
    assert not devices.is_domain
    assert not devices.is_control_domain
    with pytest.raises(HostError, match="dev/xen/gntdev: this machine runs under no Xen") as raised:
        devices.open("gntdev")
    assert raised.value.name == "ENOENT"


@pytest.mark.parametrize(("file", "text"), [("proc/xen/capabilities", ""), ("sys/hypervisor/type", "xen\n")])
def test_a_module_that_is_not_loaded(devices: Devices, file: str, text: str) -> None:
    (devices.root / file).parent.mkdir(parents=True)
    (devices.root / file).write_text(text)
    assert devices.is_domain
    assert not devices.is_control_domain
    with pytest.raises(HostError, match="dev/xen/evtchn: load its module, by `modprobe xen-evtchn`"):
        devices.open("evtchn")
    with pytest.raises(HostError, match="dev/xen/xenbus: this Linux was built without it"):
        devices.open("xenbus")


def test_another_hypervisor(devices: Devices) -> None:
    (devices.root / "sys/hypervisor").mkdir(parents=True)
    (devices.root / "sys/hypervisor/type").write_text("another\n")
    assert not devices.is_domain


def test_the_control_domain(devices: Devices) -> None:
    (devices.root / "proc/xen").mkdir(parents=True)
    (devices.root / "proc/xen/capabilities").write_text("control_d\n")
    assert devices.is_control_domain
    assert devices.is_domain


@pytest.mark.parametrize("error", [PermissionError(13, "Permission denied"), OSError(16, "Device or resource busy")])
def test_a_device_that_may_not_be_opened(devices: Devices, error: OSError, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_arguments: object) -> int:
        raise error

    sentence = "may not be opened by user" if error.errno == 13 else "cannot be opened: Device or resource busy"
    with monkeypatch.context() as patch:
        patch.setattr(os, "open", refuse)
        with pytest.raises(HostError, match=f"/gntdev {sentence}"):
            devices.open("gntdev")


def test_a_device_that_is_there(devices: Devices) -> None:
    devices.path("gntdev").touch()
    os.close(devices.open("gntdev"))


def test_parameters_of_a_module(devices: Devices) -> None:
    assert devices.parameter("xen-gntdev", "limit", 7) == 7
    path = devices.root / "sys/module/xen_gntdev/parameters/limit"
    path.parent.mkdir(parents=True)
    path.write_text("65536\n")
    assert devices.parameter("xen-gntdev", "limit", 7) == 65536
    path.write_text("(null)\n")
    assert devices.parameter("xen-gntdev", "limit", 7) == 7
