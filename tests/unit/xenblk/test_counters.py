"""Counters: one process counts, another reads; a stranger's file is refused."""

import subprocess
import sys
from pathlib import Path

import pytest

from xenblk._native import ffi
from xenblk.counters import FIELDS, Counters, tlb_shootdowns
from xenblk.errors import UsageError

# fmt: off
NAMES = [
    "map_ops", "map_pages", "unmap_ops", "unmap_pages",
    "copy_ops", "copy_pages",
    "persistent_hits", "persistent_misses", "persistent_overflow", "persistent_purged",
    "persistent_current", "persistent_peak", "persistent_in_use",
    "notify_sent", "notify_held",
    "rd_req", "wr_req", "f_req", "ds_req", "oo_req",
    "rd_sect", "wr_sect",
]
# fmt: on


def test_names_and_order() -> None:
    assert list(FIELDS) == NAMES
    assert Counters().snapshot() == dict.fromkeys(NAMES, 0)


def test_each_name_is_a_field_of_its_own(tmp_path: Path) -> None:
    counters = Counters.create(tmp_path / "vbd")
    for number, name in enumerate(NAMES):
        setattr(counters, name, (1 << 63) + number)
    counters.map_pages += 3
    counters.close()
    data = (tmp_path / "vbd").read_bytes()
    assert data[:16] == b"xenblkct\1\0\0\0\0\0\0\0"
    assert list(memoryview(data[16:]).cast("Q")) == [(1 << 63) + at + 3 * (at == 1) for at in range(len(NAMES))]


def test_another_process_reads_what_is_counted(tmp_path: Path) -> None:
    counters = Counters.create(tmp_path / "vbd")
    reader = "from pathlib import Path; from xenblk.counters import Counters; print(Counters.open(Path('vbd')).wr_sect)"
    for _ in range(2):
        counters.wr_sect += 8
        read = subprocess.run([sys.executable, "-c", reader], cwd=tmp_path, capture_output=True, check=True)
        assert int(read.stdout) == counters.wr_sect
    counters.close()
    counters.close()


def test_read_only_view_follows(tmp_path: Path) -> None:
    counters = Counters.create(tmp_path / "vbd")
    view = Counters.open(tmp_path / "vbd")
    counters.rd_req += 1
    assert view.rd_req == 1
    with pytest.raises(TypeError):
        view.rd_req = 2
    assert counters.rd_req == 1


def test_create_replaces_nothing(tmp_path: Path) -> None:
    Counters.create(tmp_path / "vbd").rd_req += 1
    with pytest.raises(FileExistsError):
        Counters.create(tmp_path / "vbd")
    assert Counters.open(tmp_path / "vbd").rd_req == 1
    assert [path.name for path in tmp_path.iterdir()] == ["vbd"]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "is not a file of counters: it starts with b''"),
        (b"#!/bin/sh\necho\n" + bytes(400), "is not a file of counters: it starts with b'#!/bin/s'"),
        (b"xenblkct\2\0\0\0\0\0\0\0" + bytes(176), "counters of version 2; this xenblk reads version 1"),
        (b"xenblkct\1\0\0\0\0\0\0\0" + bytes(175), "has 191 bytes; counters of version 1 have 192"),
    ],
)
@pytest.mark.parametrize("writable", [False, True])
def test_strangers_are_refused(tmp_path: Path, content: bytes, sentence: str, writable: bool) -> None:
    (tmp_path / "vbd").write_bytes(content)
    with pytest.raises(UsageError, match=sentence):
        Counters.open(tmp_path / "vbd", writable=writable)


def test_books_of_the_dead() -> None:
    counters = Counters()
    counters.map_pages, counters.unmap_pages = 20, 5
    counters.persistent_current, counters.persistent_peak, counters.persistent_in_use = 12, 14, 3
    counters.check()
    counters.close_books()
    counters.check()
    assert counters.unmap_pages == 20
    assert (counters.persistent_current, counters.persistent_in_use, counters.persistent_peak) == (0, 0, 14)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("unmap_pages", "more was unmapped than mapped"),
        ("persistent_current", "more is kept than mapped"),
        ("persistent_in_use", "more is in use than kept"),
    ],
)
def test_check_finds_what_cannot_be(name: str, sentence: str) -> None:
    counters = Counters()
    setattr(counters, name, 1)
    with pytest.raises(AssertionError, match=sentence):
        counters.check()


def test_check_finds_a_peak_below_the_present() -> None:
    counters = Counters()
    counters.map_pages = counters.persistent_current = 1
    with pytest.raises(AssertionError, match="the peak is below the present"):
        counters.check()


@pytest.mark.parametrize(
    ("text", "count"),
    [
        (" 0:  1  2  IO-APIC  2-edge  timer\nTLB:   2648   2260   TLB shootdowns\n", 4908),
        ("            CPU0\n 0:  1  IO-APIC  2-edge  timer\n", None),
    ],
)
def test_tlb_shootdowns(tmp_path: Path, text: str, count: int | None) -> None:
    (tmp_path / "interrupts").write_text(text)
    assert tlb_shootdowns(tmp_path / "interrupts") == count


def test_tlb_shootdowns_of_a_kernel_that_does_not_tell(tmp_path: Path) -> None:
    assert tlb_shootdowns(tmp_path / "interrupts") is None


def test_the_c_struct_has_the_fields_in_the_order_of_the_file() -> None:
    members = ffi.typeof("struct xb_counters").fields
    assert [name for name, _member in members] == list(FIELDS)
    assert [member.offset for _name, member in members] == list(range(0, 8 * len(FIELDS), 8))
