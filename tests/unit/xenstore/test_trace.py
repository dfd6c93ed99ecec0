"""The trace file: the lines that the real xenstored writes for the same conversation, and none that a client forged."""

import os
import re
import socket
import time
from pathlib import Path

import pytest
from oracle.daemon import RealXenstored, lacking

from xenblk.abi import DOM0
from xenblk.xenstore.trace import Trace
from xenblk.xenstore.wire import Packet, PacketParser, XsMsgType
from xenblk.xenstore.xenstored import Xenstored

DEADLINE_S = 30.0
STAMP = r"2[0-9]{3}[01][0-9][0-3][0-9] [0-2][0-9]:[0-5][0-9]:[0-6][0-9]"

CONVERSATION = [
    (XsMsgType.WRITE, b"/a\0value"),
    (XsMsgType.WRITE, b"/a\0two\0strings\0"),
    (XsMsgType.READ, b"/none\0"),
    (XsMsgType.WATCH, b"/a\0token\0"),
    (XsMsgType.MKDIR, b"/a\0"),
    (99, b"x"),
    (20, b""),
    (XsMsgType.TRANSACTION_START, b"\0"),
    (XsMsgType.CONTROL, b"print\0text\0"),
    (XsMsgType.CONTROL, b"check\0"),
    (XsMsgType.DIRECTORY, b"/\0"),
]
LINES = [
    "CREATE connection",
    "IN WRITE (/a value)",
    "OUT WRITE (OK )",
    "IN WRITE (/a two strings )",
    "OUT WRITE (OK )",
    "IN READ (/none )",
    "OUT ERROR (ENOENT )",
    "IN WATCH (/a token )",
    "OUT WATCH (OK )",
    "OUT WATCH_EVENT (/a token )",
    "IN MKDIR (/a )",
    "OUT MKDIR (OK )",
    "IN **UNKNOWN** (x)",
    "OUT ERROR (ENOSYS )",
    "IN **UNKNOWN** ()",
    "OUT ERROR (ENOSYS )",
    "IN TRANSACTION_START ( )",
    "OUT TRANSACTION_START (1 )",
    "IN CONTROL (print text )",
    "control: text",
    "OUT CONTROL (OK )",
    "IN CONTROL (check )",
    "Checking store ...",
    "Checking store complete.",
    "OUT CONTROL (OK )",
    "IN DIRECTORY (/ )",
    "OUT DIRECTORY (tool a )",
    "DESTROY connection",
]


def _lines_of_last(path: Path) -> list[str]:
    """What concerns the last connection, without its number and the time; each must have both."""
    text = path.read_text()
    number = re.findall("^CREATE connection (0x[0-9a-f]+)$", text, re.MULTILINE)[-1]
    found: list[str] = []
    for line in text[text.rindex("CREATE connection") :].splitlines():
        if match := re.fullmatch(rf"(IN|OUT) {number} {STAMP} (.*)", line):
            found.append(f"{match[1]} {match[2]}")
        elif line in (f"CREATE connection {number}", f"DESTROY connection {number}"):
            found.append(line.rpartition(" ")[0])
        elif re.match("Checking|control", line):
            found.append(line)
    return found


def test_ours(tmp_path: Path) -> None:
    core = Xenstored(trace=Trace(tmp_path / "trace"))
    session = core.connect(DOM0, lambda: None)
    for kind, payload in CONVERSATION:
        session.feed(Packet(kind, 1, 0, payload).encode())
        session.consume(len(session.output))
    session.close()
    assert _lines_of_last(tmp_path / "trace") == LINES
    assert (tmp_path / "trace").read_text().startswith("***\n")
    core.trace.close()


@pytest.mark.skipif(lacking() is not None, reason=lacking() or "")
def test_the_real_one_writes_the_same(tmp_path: Path) -> None:
    """Except that what `print` says goes elsewhere, and that an event is noted when it is sent."""
    real = RealXenstored("-T", str(tmp_path / "trace"))
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            sock.settimeout(DEADLINE_S)
            sock.connect(real.socket)
            parser = PacketParser()
            for kind, payload in CONVERSATION:
                sock.sendall(Packet(kind, 1, 0, payload).encode())
                while not [packet for packet in parser.feed(sock.recv(4096)) if packet.type != XsMsgType.WATCH_EVENT]:
                    pass
        end_s = time.monotonic() + DEADLINE_S
        while (found := _lines_of_last(tmp_path / "trace"))[-1] != LINES[-1]:
            assert time.monotonic() < end_s, found
            time.sleep(0.01)
    finally:
        real.close()
    event = "OUT WATCH_EVENT (/a token )"
    assert found.count(event) == 1
    found.remove(event)
    assert found == [line for line in LINES if line not in (event, "control: text")]


def test_regression_no_client_forges_a_line(tmp_path: Path) -> None:
    core = Xenstored(trace=Trace(tmp_path / "trace"))
    session = core.connect(DOM0, lambda: None)
    session.feed(Packet(XsMsgType.WRITE, 1, 0, b"/a\0\nIN 0x9\r\x1b[2J\x7f\xff\\").encode())
    lines = (tmp_path / "trace").read_bytes().splitlines()
    assert lines[2].endswith(rb"WRITE (/a \x0aIN 0x9\x0d\x1b[2J\x7f\xff\)")
    assert lines[3].endswith(b"WRITE (OK )")
    assert len(lines) == 4
    session.feed(Packet(XsMsgType.CONTROL, 1, 0, b"print\0one\nIN 0x9\0").encode())
    lines = (tmp_path / "trace").read_bytes().splitlines()
    assert [line for line in lines if line.startswith(b"IN 0x9")] == []
    core.trace.close()


def test_closed_and_opened_again(tmp_path: Path) -> None:
    path = tmp_path / "trace"
    trace = Trace(path)
    trace.note("one")
    trace.close()
    trace.close()
    trace.note("lost")
    trace.open()
    trace.note("two")
    trace.open(tmp_path / "other")
    trace.note("three")
    assert path.read_text() == "***\none\n***\ntwo\n"
    assert (tmp_path / "other").read_text() == "***\nthree\n"
    assert os.stat(path).st_mode & 0o777 == 0o600
    trace.close()


def test_a_file_that_cannot_be_opened_leaves_the_old_one(tmp_path: Path) -> None:
    trace = Trace(tmp_path / "trace")
    with pytest.raises(FileNotFoundError):
        trace.open(tmp_path / "missing" / "trace")
    trace.note("still here")
    assert (tmp_path / "trace").read_text() == "***\nstill here\n"
    trace.close()


def test_a_full_disk_loses_lines_and_nothing_else() -> None:
    core = Xenstored(trace=Trace(Path("/dev/full")))
    session = core.connect(DOM0, lambda: None)
    session.feed(Packet(XsMsgType.WRITE, 1, 0, b"/a\0value").encode())
    assert core.read("/a") == b"value"
    core.trace.close()


def test_without_a_file() -> None:
    trace = Trace()
    trace.open()
    trace.note("nowhere")
    with pytest.raises(FileNotFoundError):
        trace.report("text", None)
