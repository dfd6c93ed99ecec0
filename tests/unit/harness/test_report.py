"""The table to the letter, and what must hold of it for any figures."""

import io
import json
from typing import Any

import pytest

from xenblk.harness.report import compare_table, print_table, result_table
from xenblk.harness.result import BenchResult, modes_json


@pytest.fixture(autouse=True)
def plain_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rich listens to these; the tests must not."""
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "NO_COLOR", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)


def result(mode: str, counters: dict[str, int] | None = None, **changes: Any) -> BenchResult:
    """A run of 16,384 operations of 4 KiB in half a second."""
    fields: dict[str, Any] = {
        "mode": mode,
        "engine": "native",
        "rw": "randrw",
        "bs": 4096,
        "iodepth": 32,
        "numjobs": 1,
        "ios": 16384,
        "secs": 0.5,
        "iops": 32768.0,
        "MBps": 134.218,
        "p50_us": 801.25,
        "p99_us": 1412.7,
        "frontend_cpu_s": 0.25,
        "backend_cpu_s": 0.125,
        "counters": counters or {},
        "verified": True,
        "seed": 7,
        "bytes": 1 << 26,
        "requests": 16385,
    }
    return BenchResult(**(fields | changes))


def lines(table: Any) -> list[str]:
    """What is printed, without the blanks at line ends."""
    out = io.StringIO()
    print_table(table, out)
    return [line.rstrip() for line in out.getvalue().splitlines()]


PERSISTENT = {
    "map_ops": 12,
    "map_pages": 352,
    "unmap_ops": 0,
    "unmap_pages": 0,
    "copy_ops": 0,
    "copy_pages": 0,
    "persistent_hits": 16032,
    "persistent_misses": 352,
    "persistent_overflow": 0,
    "persistent_purged": 0,
    "persistent_current": 352,
    "persistent_peak": 352,
    "notify_sent": 1203,
    "notify_held": 15181,
    "tlb_shootdowns": 40,
}
COPY = dict.fromkeys(PERSISTENT, 0) | {"copy_ops": 16384, "copy_pages": 16384}
del COPY["tlb_shootdowns"]

GOLDEN = """\
                           persistent    copy
─────────────────────────────────────────────
requests                       16,385  16,385
data, MiB                        64.0    64.0

pages mapped                      352       0
pages unmapped                      0       0
pages copied                        0  16,384
map operations                     12       0
unmap operations                    0       0
copy operations                     0  16,384

persistent hits                16,032       0
persistent misses                 352       0
persistent overflows                0       0
persistent purged                   0       0
persistent current                352       0
persistent peak                   352       0

notifications sent              1,203       0
notifications held back        15,181       0
TLB shootdowns, whole host         40     n/a

IOPS                           32,768  16,384
IOPS / persistent                1.00    0.50
MB/s                            134.2    67.1
latency p50, µs                 801.2   801.2
latency p99, µs               1,412.7 2,800.0
frontend CPU, s/M requests      15.26   15.26
backend CPU, s/M requests        7.63     n/a
data verified                     yes      no

seed 7, randrw, bs 4096, iodepth 32, native
engine, disk memory:64M
"""


def test_two_modes_to_the_letter() -> None:
    copy = result("copy", COPY, iops=16384.0, MBps=67.109, p99_us=2800.0, backend_cpu_s=None, verified=False)

    assert lines(compare_table([result("persistent", PERSISTENT), copy], disk="memory:64M")) == GOLDEN.splitlines()


def test_four_modes_of_large_figures_fit_80_columns_without_escapes() -> None:
    counters = dict.fromkeys(PERSISTENT, 999_999_999)
    modes = [result(mode, counters, iops=999_999_999.0) for mode in ("persistent", "map", "bounded", "copy")]

    printed = lines(compare_table(modes, disk="/a/" + "long/" * 30 + "path.img"))

    assert max(map(len, printed)) <= 80
    assert "\x1b" not in "".join(printed)
    [hits] = [line for line in printed if line.startswith("persistent hits")]
    assert hits.split()[2:] == ["999,999,999"] * 4


def test_a_figure_is_never_cut_even_if_lines_get_longer() -> None:
    modes = [result(f"mode{number}", {"map_pages": 10**18 + number}) for number in range(6)]

    printed = lines(compare_table(modes, disk="memory:1M"))

    [mapped] = [line for line in printed if line.startswith("pages mapped")]
    assert mapped.split()[2:] == [f"{10**18 + number:,}" for number in range(6)]


def test_a_single_run_has_no_ratio() -> None:
    printed = lines(result_table([result("persistent")]))

    assert not any(line.startswith("IOPS /") for line in printed)
    assert printed[0].split() == ["persistent"]


def test_names_that_look_like_markup_are_shown_as_they_are() -> None:
    printed = lines(compare_table([result("[red]x")], disk="/[bold]/d.img"))

    assert "[red]x" in printed[0]
    assert "/[bold]/d.img" in "".join(printed[-3:])


@pytest.mark.parametrize("requests", [0, 1])
def test_a_run_without_operations_has_no_ratios(requests: int) -> None:
    printed = lines(compare_table([result("map", iops=0.0, requests=requests)], disk="memory:1M"))

    [ratio] = [line for line in printed if line.startswith("IOPS / map")]
    [cpu] = [line for line in printed if line.startswith("frontend CPU")]
    assert ratio.endswith("n/a")
    assert cpu.endswith("n/a") == (requests == 0)


def test_json_has_one_object_per_mode_in_order() -> None:
    runs = [result("persistent", PERSISTENT), result("copy", COPY)]

    modes = json.loads(modes_json(runs))

    assert list(modes) == ["modes"]
    assert [BenchResult.from_dict(fields) for fields in modes["modes"]] == runs
