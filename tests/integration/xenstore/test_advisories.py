"""What went wrong in other xenstoreds, by the number of Xen's advisory: what a guest could do that it must not.

Each test is done to our server, and to ours and the real daemon side by side, which must answer the same byte by byte.
Elsewhere, by their numbers, are

    XSA-38, 325     test_ring.py, the bytes of the ring
    XSA-206         tests/unit/xenstore/test_write_limit.py, with a clock that stands still
    XSA-326         tests/unit/xenstore/test_unread.py, what is kept for who does not read
    others          test_advisories_accounts.py: what guests use, and what stays of the dead

and of these there can be no test, because the fault needs what is not here:

    XSA-416         the C daemon's buffer of a request, kept until its reply is read: ours is gone with the answer
"""

import contextlib
import socket
import struct
from typing import Any

import pytest
from oracle.daemon import RealXenstored, lacking
from oracle.scene import OK, Scene

from xenblk.xenstore.wire import XsMsgType


@pytest.mark.parametrize("who", ["A", "1"])
def test_xsa_72_a_reply_longer_than_a_message(scene: Scene, who: str) -> None:
    scene.ask("A", "MKDIR", "/many|")
    scene.ask("A", "SET_PERMS", "/many|r0|")
    for i in range(300):
        scene.ask("A", "MKDIR", f"/many/a-long-name-{i}|")
    assert scene.ask(who, "DIRECTORY", "/many|") == "E2BIG"
    part = scene.ask(who, "DIRECTORY_PART", "/many|0|")
    assert isinstance(part, bytes)
    assert 4000 < len(part) <= 4096


def test_xsa_115_guests_hear_of_nothing_that_they_may_not_read(scene: Scene) -> None:
    scene.home(1)
    for path in ("/", "/secret", "@introduceDomain", "@releaseDomain"):
        assert scene.ask("1", "WATCH", f"{path}|t|") == OK
    scene.events.clear()
    scene.ask("A", "WRITE", "/secret/deep|value")
    scene.ask("A", "RM", "/secret|")
    tx = scene.start("A")
    scene.ask("A", "WRITE", "/secret|value", tx)
    assert scene.ask("A", "TRANSACTION_END", "T|", tx) == OK
    scene.create(3)
    scene.destroy(3)
    assert scene.events == {}
    assert scene.ask("1", "WRITE", "/local/domain/1/a|") == OK
    assert scene.events == {"1": [("/local/domain/1/a", "t")]}


@pytest.mark.parametrize("kind", ["INTRODUCE", "RELEASE", "IS_DOMAIN_INTRODUCED", "RESUME", "SET_TARGET", "CONTROL"])
def test_xsa_115_what_is_for_domain_0_alone(scene: Scene, kind: str) -> None:
    for text in ("1|1|1|", "2|", "1|2|", "check|", ""):
        assert scene.ask("1", kind, text) == "EACCES"


def test_xsa_115_a_watch_is_in_no_transaction(scene: Scene) -> None:
    tx = scene.start("1")
    assert scene.ask("1", "WATCH", "@x|t|", tx) == scene.ask("1", "WATCH", "@x|u|", 99) == OK
    assert scene.ask("1", "TRANSACTION_END", "F|", tx) == OK
    assert scene.used(1, "watches") == 2
    assert scene.ask("1", "UNWATCH", "@x|t|") == OK


@pytest.mark.parametrize("in_transaction", [False, True])
def test_xsa_115_a_creation_that_fails_counts_nothing(scene: Scene, in_transaction: bool) -> None:
    scene.home(1)
    tx = scene.start("1") if in_transaction else 0
    for _ in range(3):
        assert scene.ask("1", "WRITE", "a/b|" + "v" * 2100, tx) == "ENOSPC"
        assert scene.ask("1", "WRITE", "/other|", tx) == "EACCES"
    if tx:
        assert scene.ask("1", "TRANSACTION_END", "T|", tx) == "ENOMEM"
    assert scene.used(1) == 1
    assert scene.ask("A", "DIRECTORY", "/local/domain/1|") == b""


@pytest.mark.parametrize("depth", [10, 500])
def test_xsa_323_what_a_guest_names_relatively_domain_0_can_name(scene: Scene, depth: int) -> None:
    scene.home(1)
    path = "/".join("x" * (2000 // depth - 1) for _ in range(depth))
    assert scene.ask("1", "WRITE", f"{path}|value") == OK
    for who, name in (("A", f"/local/domain/1/{path}"), ("1", path)):
        assert scene.ask(who, "READ", f"{name}|") == b"value"
        assert scene.ask(who, "DIRECTORY", f"{name}|") == b""
    assert scene.ask("A", "RM", f"/local/domain/1/{path}|") == OK


def test_xsa_324_an_event_longer_than_a_message(scene: Scene) -> None:
    scene.home(1)
    token = "t" * 4050
    for who in ("A", "1"):
        assert scene.ask(who, "WATCH", f"/local/domain/1|{token}|") == OK
    scene.events.clear()
    assert scene.ask("1", "WRITE", "child-of-a-name-that-is-too-long|") == OK
    assert scene.ask("A", "WRITE", f"/local/domain/1/{'x' * 1000}|") == OK
    assert scene.events == {}
    assert scene.ask("1", "WRITE", "short|") == OK
    assert {name: len(events) for name, events in scene.events.items()} == {"A": 1, "1": 1}


@pytest.mark.parametrize("in_transaction", [False, True])
def test_xsa_352_a_guest_gives_nothing_away(scene: Scene, in_transaction: bool) -> None:
    scene.home(1)
    scene.ask("1", "WRITE", "mine|")
    tx = scene.start("1") if in_transaction else 0
    for perms in ("n2|", "n0|", "n2|b1|"):
        assert scene.ask("1", "SET_PERMS", f"mine|{perms}", tx) == "EPERM"
    assert scene.ask("1", "SET_PERMS", "mine|n9|", tx) == "ENOENT"
    if tx:
        assert scene.ask("1", "TRANSACTION_END", "T|", tx) == OK
    assert scene.ask("A", "GET_PERMS", "/local/domain/1/mine|") == b"n1\0"
    assert (scene.used(1), scene.used(2)) == (2, 0)


@pytest.mark.parametrize("in_transaction", [False, True])
def test_xsa_353_the_root_is_not_a_guests(scene: Scene, in_transaction: bool) -> None:
    tx = scene.start("1") if in_transaction else 0
    for kind, rest in (("READ", ""), ("DIRECTORY", ""), ("GET_PERMS", ""), ("WRITE", "v"), ("RM", ""), ("MKDIR", "")):
        assert scene.ask("1", kind, f"/|{rest}", tx) == "EACCES"
    for perms in ("n1|", "b0|", "n0|b1|"):
        assert scene.ask("1", "SET_PERMS", f"/|{perms}", tx) == "EACCES"
    assert scene.ask("A", "RM", "/|") == "EINVAL"
    assert (scene.ask("A", "DIRECTORY", "/|"), scene.ask("A", "GET_PERMS", "/|")) == (b"tool\0", b"n0\0")


def test_xsa_418_a_tree_of_a_thousand_levels(scene: Scene) -> None:
    for _ in range(2):
        assert scene.ask("A", "WRITE", "/d" * 1000 + "|deep") == OK
        scene.ask("A", "SET_PERMS", "/d|n1|")
        tx = scene.start("A")
        assert scene.ask("A", "RM", "/d|", tx) == OK
        assert scene.ask("A", "TRANSACTION_END", "F|", tx) == OK
        assert scene.ask("A", "RM", "/d|") == OK
    scene.ask("A", "WRITE", "/d" * 1000 + "|deep")
    scene.ask("A", "SET_PERMS", "/d|n1|")
    scene.destroy(1)
    assert scene.ask("A", "DIRECTORY", "/|") == b"tool\0"


@pytest.mark.parametrize("length", [4097, 0x7FFFFFFF, 0x80000000, 0xFFFFFFF0, 0xFFFFFFFF])
@pytest.mark.parametrize("real", [False, True], ids=["ours", "real"])
def test_xsa_420_a_length_that_is_negative_for_some(request: Any, length: int, real: bool) -> None:
    if real and (reason := lacking()):
        pytest.skip(reason)
    with contextlib.ExitStack() as stack:
        if real:
            path = stack.enter_context(contextlib.closing(RealXenstored())).socket
        else:
            path = request.getfixturevalue("daemon").path
        for _ in range(2):
            sock = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
            sock.settimeout(30)
            sock.connect(path)
            sock.sendall(struct.pack("<IIII", XsMsgType.WRITE, 1, 0, length))
            assert sock.recv(1) == b""


@pytest.mark.parametrize("path", ["/local/domain/", "/local/domain/1/", "/local/domain//", "", "//"])
def test_xsa_481_a_path_that_ends_too_early(scene: Scene, path: str) -> None:
    for who in ("1", "A"):
        for kind in ("READ", "DIRECTORY", "GET_PERMS", "MKDIR", "WRITE", "RM"):
            assert scene.ask(who, kind, f"{path}|") == "EINVAL"


def test_xsa_484_watches_are_reset_inside_a_transaction(scene: Scene) -> None:
    scene.home(1)
    for who in ("1", "A"):
        assert scene.ask(who, "WATCH", "/local/domain/1|t|") == OK
        tx, other = scene.start(who), scene.start(who)
        scene.ask(who, "WRITE", "/local/domain/1/a|", tx)
        assert scene.ask(who, "RESET_WATCHES", "|", tx) == OK
        scene.events.clear()
        for gone in (tx, other):
            assert scene.ask(who, "READ", "/local/domain/1|", gone) == "ENOENT"
            assert scene.ask(who, "TRANSACTION_END", "T|", gone) == "ENOENT"
        assert scene.ask(who, "WRITE", "/local/domain/1/b|") == OK
    assert scene.events == {}
    assert scene.ask("A", "DIRECTORY", "/local/domain/1|") == b"b\0"
    assert (scene.used(1, "watches"), scene.used(1, "transactions")) == (0, 0)
