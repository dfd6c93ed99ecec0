"""The layouts of grant_table.h byte for byte, through the structs that the C code uses."""

from typing import Any

import pytest

from xenblk._native import ffi, lib
from xenblk.grants import ACTIVE_ENTRY_BYTES, MAPTRACK_ENTRY_BYTES, GrantStatus


def test_grant_entry_bytes() -> None:
    entry = ffi.new("struct xb_grant_entry *")
    lib.xb_gnttab_grant(entry, 7, 0x00ABCDEF, 1)
    assert bytes(ffi.buffer(entry)).hex() == "05000700efcdab00"


def test_map_op_bytes() -> None:
    op = ffi.new("struct xb_map_grant_ref *")
    op.host_addr, op.ref = 0x1122334455667788, 0xA1B2C3D4
    op.flags = lib.GNTMAP_host_map | lib.GNTMAP_readonly
    op.dom, op.status, op.handle, op.dev_bus_addr = 5, lib.GNTST_bad_gntref, 0x99, 0x55AA
    expected = "8877665544332211 06000000 d4c3b2a1 0500 fdff 99000000 aa55000000000000"
    assert bytes(ffi.buffer(op)) == bytes.fromhex(expected)


def test_unmap_op_bytes() -> None:
    op = ffi.new("struct xb_unmap_grant_ref *")
    op.host_addr, op.handle, op.status = 0x1122334455667788, 0x99, lib.GNTST_bad_handle
    expected = "8877665544332211 0000000000000000 99000000 fcff 0000"
    assert bytes(ffi.buffer(op)) == bytes.fromhex(expected)


def test_sizes_of_the_hypervisors_tables() -> None:
    assert ACTIVE_ENTRY_BYTES == 16
    assert MAPTRACK_ENTRY_BYTES == 16


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("GTF_permit_access", 1),
        ("GTF_readonly", 4),
        ("GTF_reading", 8),
        ("GTF_writing", 16),
        ("GNTMAP_device_map", 1),
        ("GNTMAP_host_map", 2),
        ("GNTMAP_readonly", 4),
    ],
)
def test_flags(name: str, number: int) -> None:
    table: Any = lib
    assert getattr(table, name) == number


def test_statuses_are_xens_and_each_failure_is_negative() -> None:
    assert {status.name: int(status) for status in GrantStatus} == {
        "OKAY": 0,
        "GENERAL_ERROR": -1,
        "BAD_DOMAIN": -2,
        "BAD_GNTREF": -3,
        "BAD_HANDLE": -4,
        "BAD_VIRT_ADDR": -5,
        "BAD_PAGE": -9,
        "BAD_COPY_ARG": -10,
        "NO_SPACE": -13,
    }
    assert len({status.sentence for status in GrantStatus}) == len(GrantStatus)
