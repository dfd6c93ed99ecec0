"""The benchmarks run to their end and say what they promise to. How fast anything is, is no test's business."""

import json
import os
import socket
import struct
import subprocess
import sys
import time
import types
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import click
import pytest
from oracle.daemon import lacking

from xenblk.xenstore.wire import Packet, PacketParser, XsMsgType

pytestmark = pytest.mark.checkout
needs_real_xenstored = pytest.mark.skipif(lacking() is not None, reason=str(lacking()))

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
FOLDER = BENCHMARKS / "xenstore"
DEADLINE_S = 120.0


def _run(script: str, *options: str, folder: Path = FOLDER) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(folder / script), *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_S, check=False)


def _json(script: str, *options: str, folder: Path = FOLDER) -> dict[str, Any]:
    done = _run(script, *options, "--json", folder=folder)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    assert found["machine"]["cpus"] >= 1
    return found


@needs_real_xenstored
def test_compare() -> None:
    found = _json("compare.py", "--rounds", "1", "--seconds", "0.02")
    assert (found["rounds"], found["seconds"]) == (1, 0.02)
    names = ["read", "write", "transaction", "directory10", "directory100", "read-pipelined", "create-remove", "watch"]
    assert [(row["case"], row["connections"]) for row in found["cases"]] == [(n, c) for n in names for c in (1, 8)]
    for row in found["cases"]:
        figures = {"per_s", "p50_us", "p99_us"} if row["case"] == "watch" else {"per_s"}
        for daemon in ("ours", "real"):
            assert row[daemon].keys() == figures
            for figure in row[daemon].values():
                assert 0 < figure["min"] <= figure["median"] <= figure["max"]
        figure = "p50_us" if row["case"] == "watch" else "per_s"
        assert row["ratio"] == pytest.approx(row["ours"][figure]["median"] / row["real"][figure]["median"])


@needs_real_xenstored
def test_compare_one_case() -> None:
    found = _json("compare.py", "--rounds", "1", "--seconds", "0.02", "--case", "watch")
    assert [(row["case"], row["connections"]) for row in found["cases"]] == [("watch", 1), ("watch", 8)]


@needs_real_xenstored
def test_scale() -> None:
    found = _json("scale.py", "--rounds", "1", "--sizes", "3,2", "--operations", "3")
    assert (found["rounds"], found["operations"]) == (1, 3)
    measures = ["fill", "walk", "xenstore_ls", "transaction", "event"]
    assert [(row["domains"], row["measure"]) for row in found["rows"]] == [(n, m) for n in (2, 3) for m in measures]
    for row in found["rows"]:
        assert row["ratio"] == pytest.approx(row["ours_s"] / row["real_s"])
        assert row["ours_growth"] > 0
        assert row["real_growth"] > 0
        if row["domains"] == 2:
            assert (row["ours_growth"], row["real_growth"]) == (1, 1)


@needs_real_xenstored
def test_tables(tmp_path: Path) -> None:
    picture = tmp_path / "growth.png"
    done = _run("scale.py", "--rounds", "1", "--sizes", "2", "--operations", "1", "--plot", str(picture))
    assert done.returncode == 0, done.stderr
    assert picture.read_bytes().startswith(b"\x89PNG")
    lines = done.stdout.splitlines()
    assert lines[0].split() == ["measure", "domains", "ours", "growth", "real", "growth", "ours", "/", "real"]
    assert "median of 1 round(s)" in done.stdout


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--sizes", "1"], "2 to 1000 domains can be measured, not 1"),
        (["--sizes", "1001"], "2 to 1000 domains can be measured, not 1001"),
        (["--sizes", "many"], "numbers of domains are written 125,250, not many"),
    ],
)
def test_sizes_that_cannot_be_measured(options: list[str], sentence: str) -> None:
    done = _run("scale.py", *options)
    assert (done.returncode, sentence in done.stderr) == (2, True), done.stderr


def test_compare_trees() -> None:
    options = ["--rounds", "2", "--seconds", "0", "--entries", "17,2,17", "--seed", "3"]
    found = _json("compare_trees.py", *options, folder=BENCHMARKS / "grants")
    assert (found["rounds"], found["seconds"], found["seed"]) == (2, 0, 3)
    runs = [(n, pattern) for n in (2, 17) for pattern in ("dense", "scattered", "sparse")]
    measured = [(row["entries"], row["pattern"], row["operation"]) for row in found["rows"]]
    assert measured == [(*run, operation) for run in runs for operation in ("hit", "miss", "churn", "walk")]
    for row in found["rows"]:
        for name in ("hash", "radix", "rbtree"):
            assert 0 < row[f"{name}_ns"]["min"] <= row[f"{name}_ns"]["median"] <= row[f"{name}_ns"]["max"]
            if name != "hash":
                assert row[f"{name}_ratio"] == pytest.approx(row[f"{name}_ns"]["median"] / row["hash_ns"]["median"])
    assert [(row["entries"], row["pattern"]) for row in found["memory"]] == runs
    assert all(row[f"{name}_bytes"] > 0 for row in found["memory"] for name in ("hash", "radix", "rbtree"))


def test_compare_trees_table() -> None:
    options = ["--rounds", "1", "--seconds", "0", "--entries", "3"]
    done = _run("compare_trees.py", *options, folder=BENCHMARKS / "grants")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].split()[:5] == ["operation", "entries", "hash", "radix", "rbtree"]
    assert [line.split(", ")[0] for line in lines[2:17]] == ["hit", "miss", "churn", "walk"] * 3 + ["memory"] * 3
    assert "median (least..most) of 1 round(s)" in done.stdout


@pytest.mark.parametrize(
    ("entries", "sentence"),
    [
        ("1", "2 to 32768 entries can be measured, not 1"),
        ("32769", "2 to 32768 entries can be measured, not 32769"),
        ("many", "numbers of entries are written 352,1056, not many"),
    ],
)
def test_entries_that_cannot_be_measured(entries: str, sentence: str) -> None:
    done = _run("compare_trees.py", "--entries", entries, folder=BENCHMARKS / "grants")
    assert (done.returncode, sentence in done.stderr) == (2, True), done.stderr


@pytest.fixture(scope="module")
def structures(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The program that compares structures, under the sanitizers."""
    program = tmp_path_factory.mktemp("gref_tree") / "gref_tree"
    sources = [*(BENCHMARKS / "grants").glob("*.c"), BENCHMARKS.parent / "grants" / "gref_map.c"]
    flags = ["-std=gnu11", "-Wall", "-Wextra", "-Werror", "-g", "-O1", f"-I{BENCHMARKS.parent}"]
    flags += ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    subprocess.run([os.environ.get("CC", "cc"), *flags, "-o", program, *sources], check=True)
    return str(program)


@pytest.mark.parametrize("structure", ["hash", "radix", "rbtree"])
@pytest.mark.parametrize("pattern", ["dense", "scattered", "sparse"])
def test_structures_are_right(structures: str, structure: str, pattern: str) -> None:
    """What is compared finds, forgets and orders what it should: the program checks that before and after measuring."""
    for entries in ("2", "3", "64", "65", "1056"):
        command = [structures, structure, pattern, entries, "0.001", "7"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_S, check=False)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout).keys() == {"hit_ns", "miss_ns", "churn_ns", "walk_ns", "bytes"}


@pytest.fixture(scope="module")
def load(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The load generator, under the sanitizers."""
    program = tmp_path_factory.mktemp("load") / "load"
    flags = ["-std=gnu11", "-Wall", "-Wextra", "-Werror", "-g", "-fsanitize=address,undefined"]
    subprocess.run([os.environ.get("CC", "cc"), *flags, "-o", program, FOLDER / "load.c"], check=True)
    return str(program)


def _serve(load: str, folder: Path, case: str, behave: Callable[[Packet], bytes]) -> tuple[int, str, str]:
    """Let `load` run a case on one connection to a server that answers as it likes; status and what was said."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(folder / "socket"))
        listener.listen(1)
        listener.settimeout(DEADLINE_S)
        command = [load, str(folder / "socket"), case, "1", "0.01"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            connection, _ = listener.accept()
            with connection:
                parser = PacketParser()
                while data := connection.recv(4096):
                    if not all(_sent(connection, behave(packet)) for packet in parser.feed(data)):
                        break
            said, complained = process.communicate(timeout=DEADLINE_S)
        return process.returncode, said, complained


def _sent(connection: socket.socket, answer: bytes) -> bool:
    connection.sendall(answer)
    return answer != b""


def _answer(request: Packet, **changes: Any) -> bytes:
    return request._replace(payload=b"OK\0")._replace(**changes).encode()


@pytest.mark.parametrize(
    ("behave", "sentence"),
    [
        (lambda _request: b"", "the server closed the connection"),
        (lambda r: _answer(r, type=XsMsgType.ERROR, payload=b"EACCES\0"), "was answered with type 16: EACCES"),
        (lambda r: _answer(r, type=XsMsgType.READ), "a request of type 12 was answered with type 2"),
        (lambda r: _answer(r, req_id=7), "the answer to request 1 was due, one to 7 came"),
        (lambda r: struct.pack("<IIII", r.type, 1, 0, 4097), "a message has at most 4096 bytes, this one claims 4097"),
    ],
    ids=["closed", "refused", "another type", "another request", "too long"],
)
def test_load_stops_at_a_wrong_answer(
    load: str, tmp_path: Path, behave: Callable[[Packet], bytes], sentence: str
) -> None:
    status, said, complained = _serve(load, tmp_path, "read", behave)
    assert (status, said) == (1, "")
    assert complained.startswith("load: read, connection 0: ")
    assert sentence in complained


def test_load_tries_a_transaction_again(load: str, tmp_path: Path) -> None:
    """Every other commit fails. An operation is one that succeeded."""
    commits = []

    def behave(request: Packet) -> bytes:
        if request.type == XsMsgType.TRANSACTION_START:
            assert request.tx_id == 0
            return _answer(request, payload=b"17\0")
        if request.type == XsMsgType.TRANSACTION_END:
            assert (request.tx_id, request.payload) == (17, b"T\0")
            commits.append(request.req_id)
            if len(commits) % 2:
                return _answer(request, type=XsMsgType.ERROR, payload=b"EAGAIN\0")
        return _answer(request)

    status, said, complained = _serve(load, tmp_path, "transaction", behave)
    assert (status, complained) == (0, "")
    found = json.loads(said)
    assert (found["case"], found["connections"]) == ("transaction", 1)
    assert found["operations"] == found["retries"] == len(commits) / 2 > 0
    assert found["per_s"] == pytest.approx(found["operations"] / found["seconds"], rel=0.01)


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """What runs the programs of the engine's benchmarks."""
    monkeypatch.syspath_prepend(BENCHMARKS / "engine")
    return import_module("programs")


CPUS = sorted(os.sched_getaffinity(0))
PLACES = list({(CPUS[0], CPUS[-1]): None, (CPUS[0], CPUS[0]): None})
SHORT = {"seconds": 0.02, "disk_bytes": 1 << 23}


@pytest.mark.parametrize("cpus", PLACES)
@pytest.mark.parametrize("op", ["read", "write"])
@pytest.mark.parametrize("copies", [1, 2])
@pytest.mark.parametrize("options", [{}, {"stores": "streaming"}, {"depth": 1}, {"block_bytes": 1 << 20, "depth": 3}])
def test_ideal(engine: Any, cpus: tuple[int, int], op: str, copies: int, options: dict[str, Any]) -> None:
    """Each page is checked for its stamp by the program, which fails if one is wrong."""
    one_cpu = cpus[0] == cpus[1]
    ideal = engine.Ideal(op=op, copies=copies, cpus=cpus, spin_us=0 if one_cpu else None, **SHORT, **options)
    found = engine.run_ideal(ideal)
    assert found.name.startswith(ideal.name)
    assert found.iops > 0
    assert 0 < found.p50_us <= found.p99_us
    assert found.cpu_s_per_million > 0
    assert (found.cacheline_ns_before is None, found.cacheline_ns_after is None) == (one_cpu, one_cpu)
    assert (found.lost_share is None) == one_cpu


@pytest.mark.parametrize("spin_us", [0, 20])
@pytest.mark.parametrize("order", ["random", "sequential"])
def test_ideal_sleeping(engine: Any, spin_us: int, order: str) -> None:
    found = engine.run_ideal(engine.Ideal(spin_us=spin_us, order=order, cpus=PLACES[0], depth=128, **SHORT))
    assert found.iops > 0


def test_ideal_on_one_cpu_does_not_spin(engine: Any) -> None:
    with pytest.raises(click.ClickException, match="on one CPU who spins keeps the other from working"):
        engine.run_ideal(engine.Ideal(cpus=PLACES[-1], **SHORT))


def test_ideal_leaves_no_server_behind(engine: Any) -> None:
    """The client is killed in the midst of it."""
    options = ["--seconds", "60", "--spin-us", "0", "--disk-bytes", "8388608", "--cpus", f"{CPUS[0]},{CPUS[0]}"]
    with subprocess.Popen([engine.build("ideal"), *options]) as client:
        children = Path(f"/proc/{client.pid}/task/{client.pid}/children")
        while not (server := children.read_text().split()):
            assert client.poll() is None
        client.kill()
    end_s = time.monotonic() + DEADLINE_S
    while _runs(int(server[0])):
        assert time.monotonic() < end_s, "the server outlives its client"
        time.sleep(0.01)


def _runs(pid: int) -> bool:
    """Whether there is such a process, and it is not a zombie that waits for whoever adopted it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.parametrize(
    "options", [{"how": "psync"}, {"how": "mmap"}, {"how": "io_uring", "depth": 32, "wait": 8}, {"how": "io_uring"}]
)
@pytest.mark.parametrize("op", ["read", "write"])
def test_direct(engine: Any, tmp_path: Path, op: str, options: dict[str, Any]) -> None:
    direct = engine.Direct(tmp_path / "disk", op=op, seconds=0.02, fill=1 << 20, **options)
    try:
        found = engine.run_direct(direct)
    except click.ClickException as error:
        if "no io_uring: " not in error.message:
            raise
        pytest.skip(error.message)
    assert found.name == direct.name
    assert found.iops > 0
    assert 0 < found.p50_us <= found.p99_us
    assert (tmp_path / "disk").stat().st_size == 1 << 20


def test_direct_checks_what_it_reads(engine: Any, tmp_path: Path) -> None:
    (tmp_path / "disk").write_bytes(bytes(4096))
    program = engine.build("direct")
    command = [program, tmp_path / "disk", "--how", "psync", "--seconds", "0.01", "--check", "1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_S, check=True)
    assert json.loads(done.stdout)["checks_failed"] > 0


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("batch", [1, 11, 32])
@pytest.mark.parametrize("unmap", ["each", "run"])
def test_mapcost(engine: Any, threads: int, batch: int, unmap: str) -> None:
    options = engine.MapCost(batch=batch, threads=threads, unmap=unmap, cpus=PLACES[0], seconds=0.02)
    found = engine.run_mapcost(options)
    assert found.ns_per_page > 0
    assert found.cpu_ns_per_page > 0
    assert found.shootdowns_per_page is None or found.shootdowns_per_page >= 0


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("ideal", ["--disk-bytes", "8388608", "--spin-us", "0", "--stores", "streaming", "--depth", "5"]),
        ("ideal", ["--disk-bytes", "8388608", "--spin-us", "0", "--op", "write", "--block-bytes", "65536"]),
        ("mapcost", ["--threads", "2", "--batch", "32", "--unmap", "run"]),
        ("direct", ["--how", "psync", "--fill", "1048576", "--op", "write"]),
    ],
)
def test_engine_programs_under_sanitizers(tmp_path: Path, name: str, options: list[str]) -> None:
    flags = ["-std=gnu11", "-Wall", "-Wextra", "-Werror", "-g", "-pthread", "-fsanitize=address,undefined"]
    source = BENCHMARKS / "engine" / f"{name}.c"
    compiler = os.environ.get("CC", "cc")
    subprocess.run([compiler, *flags, "-fno-sanitize-recover=all", "-o", tmp_path / name, source], check=True)
    where = [str(tmp_path / "disk")] if name == "direct" else ["--cpus", f"{CPUS[0]},{CPUS[-1]}"]
    command = [str(tmp_path / name), *where, *options, "--seconds", "0.02"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_S, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout).get("checks_failed", 0) == 0


def test_places_are_groups_of_round_trips(engine: Any) -> None:
    placement: Any = import_module("placement")
    pairs = [(110, 120), (380, 350), (118, 375), (None, None), (41, 40)]
    measured = [engine.Figures("x", 1.0, 1.0, 1.0, 1.0, before, after) for before, after in pairs]
    assert placement.places(measured) == ["near, 118 ns", "far, 375 ns", "moved", "one CPU", "near, 40 ns"]
    assert placement.places(measured, near_below_ns=50)[:2] == ["far, 118 ns", "far, 375 ns"]
    assert placement.places([]) == []
