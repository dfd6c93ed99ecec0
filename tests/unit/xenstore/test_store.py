"""Nodes, paths, permissions and the names of errors, as the C daemon has them."""

from typing import Any

import pytest

from xenblk.abi import Domid
from xenblk.errors import XenstoreError
from xenblk.xenstore.store import SPECIAL
from xenblk.xenstore.wire import XsMsgType
from xenblk.xenstore.xenstored import DOMID_SELF, Xenstored

OK = b"OK\0"


def test_a_new_store(dom0: Any) -> None:
    assert dom0.ls("/") == ["tool"]
    assert dom0.ls("/tool") == ["xenstored"]
    assert dom0.perms("/tool/xenstored") == "n0"
    assert dom0.read("/") == b""


# Requests


@pytest.mark.parametrize("kind", [15, 16, 20, 23, 99, 128, 0xFFFFFFFF])
def test_unknown_operations(dom0: Any, kind: int) -> None:
    assert dom0.ask(kind, b"/\0") == "ENOSYS"
    assert dom0.read("/") == b""


@pytest.mark.parametrize("kind", ["READ", "DIRECTORY", "GET_PERMS", "MKDIR", "RM", "GET_DOMAIN_PATH"])
@pytest.mark.parametrize("payload", [b"", b"/a", b"/a\0/b\0", b"/a\0b"])
def test_one_argument_with_its_end(dom0: Any, kind: str, payload: bytes) -> None:
    assert dom0.ask(XsMsgType[kind], payload) == "EINVAL"


@pytest.mark.parametrize(
    ("kind", "payload"),
    [
        ("WRITE", b""),
        ("WRITE", b"/a"),
        ("WATCH", b"/a\0"),
        ("WATCH", b"/a\0t"),
        ("WATCH", b"/a\0t\0000\0"),
        ("UNWATCH", b"/a\0"),
        ("SET_PERMS", b"/\0"),
        ("SET_PERMS", b"/\0n0"),
        ("SET_PERMS", b""),
    ],
)
def test_a_wrong_number_of_arguments(dom0: Any, kind: str, payload: bytes) -> None:
    assert dom0.ask(XsMsgType[kind], payload) == "EINVAL"


@pytest.mark.parametrize("kind", ["CONTROL", "INTRODUCE", "RELEASE", "RESUME", "SET_TARGET", "IS_DOMAIN_INTRODUCED"])
def test_what_only_domain_0_may_ask(guest: Any, kind: str) -> None:
    assert guest.ask(XsMsgType[kind], b"5\0") == guest.ask(XsMsgType[kind], b"") == "EACCES"


def test_privilege_comes_before_the_transaction(guest: Any, dom0: Any) -> None:
    assert guest.ask(XsMsgType.IS_DOMAIN_INTRODUCED, b"5\0", tx=9) == "EACCES"
    assert dom0.ask(XsMsgType.IS_DOMAIN_INTRODUCED, b"5\0", tx=9) == "ENOENT"
    assert dom0.ask(XsMsgType.READ, b"no end", tx=9) == "ENOENT"


def test_domains(dom0: Any) -> None:
    for domid, known in ((0, b"T\0"), (5, b"T\0"), (DOMID_SELF, b"T\0"), (6, b"F\0")):
        assert dom0.ask(XsMsgType.IS_DOMAIN_INTRODUCED, f"{domid}\0".encode()) == known
    for text, path in ((b"5", "5"), (b"6", "6"), (b"007", "7"), (b"abc", "0")):
        assert dom0.ask(XsMsgType.GET_DOMAIN_PATH, text + b"\0") == f"/local/domain/{path}\0".encode()


def test_a_reply_too_long(dom0: Any) -> None:
    names = [f"{'n' * 12}{i:04}" for i in range(241)]
    for name in names[:-1]:
        dom0.mkdir(f"/d/{name}")
    assert dom0.ls("/d") == names[:-1]
    dom0.mkdir(f"/d/{names[-1]}")
    assert dom0.ls("/d") == "E2BIG"
    assert dom0.ls("/") == ["tool", "d"]


# Paths and values


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/a/",
        "//",
        "//a",
        "/a//b",
        "/a b",
        "/a.b",
        "/a:b",
        "/a+b",
        "/a%b",
        "/ä",
        "/a\n",
        "a/",
        "@a",
        "@releaseDomain/5",
    ],
)
def test_bad_paths(dom0: Any, path: str) -> None:
    for operation in (dom0.read, dom0.write, dom0.mkdir, dom0.rm, dom0.ls, dom0.perms):
        assert operation(path) == "EINVAL"
    assert dom0.chmod(path, "n0") == ("ENOENT" if path.startswith("@") else "EINVAL")


@pytest.mark.parametrize("name", SPECIAL)
def test_special_names_have_permissions_and_nothing_else(dom0: Any, guest: Any, name: str) -> None:
    for operation in (dom0.read, dom0.write, dom0.mkdir, dom0.rm, dom0.ls):
        assert operation(name) == operation(f"{name}/5") == "EINVAL"
    assert dom0.perms(name) == "n0"
    assert guest.perms(name) == guest.chmod(name, "n5") == "EACCES"
    assert dom0.chmod(name, "n0 r5") == OK
    assert dom0.perms(name) == guest.perms(name) == "n0 r5"
    assert dom0.ls("/") == ["tool", "local"]


def test_good_paths(dom0: Any, guest: Any) -> None:
    for path in ("/A", "/a", "/-_@/0", "/a@b", "/1", "/local/domain/9/x"):
        assert dom0.write(path, path.encode()) == OK
    assert dom0.read("/A") == b"/A"
    assert dom0.write("/", b"root") == OK
    assert dom0.read("/") == b"root"
    assert dom0.write("name", b"zero") == guest.write("name", b"five") == OK
    assert dom0.read("/local/domain/0/name") == b"zero"
    assert dom0.read("/local/domain/5/name") == guest.read("name") == b"five"


def test_the_longest_path(dom0: Any) -> None:
    assert dom0.write("/" + "x" * 3071, b"v") == OK
    assert dom0.write("/" + "x" * 3072, b"v") == "EINVAL"


def test_values_are_bytes(dom0: Any) -> None:
    for value in (b"", b"\0", b"a\0b\0", bytes(range(256)), b"x" * (4096 - len("/v") - 1)):
        assert dom0.write("/v", value) == OK
        assert dom0.read("/v") == value


# Nodes


def test_write_makes_parents(dom0: Any) -> None:
    assert dom0.write("/a/b/c", b"v") == OK
    assert (dom0.read("/a"), dom0.read("/a/b"), dom0.read("/a/b/c")) == (b"", b"", b"v")
    assert dom0.write("/a", b"w") == OK
    assert dom0.ls("/a") == ["b"]


def test_write_keeps_permissions_and_children(dom0: Any) -> None:
    dom0.write("/a/b", b"1")
    dom0.chmod("/a", "n0 r5")
    dom0.write("/a", b"2")
    assert (dom0.perms("/a"), dom0.ls("/a")) == ("n0 r5", ["b"])


def test_mkdir_keeps_the_value(dom0: Any) -> None:
    dom0.write("/a", b"v")
    assert dom0.mkdir("/a") == OK
    assert dom0.read("/a") == b"v"


def test_children_in_order_of_creation(dom0: Any) -> None:
    for name in "cab":
        dom0.mkdir(f"/d/{name}")
    assert dom0.ls("/d") == ["c", "a", "b"]
    dom0.rm("/d/c")
    dom0.mkdir("/d/c")
    assert dom0.ls("/d") == ["a", "b", "c"]


def test_rm(dom0: Any) -> None:
    dom0.write("/a/b/c", b"v")
    assert dom0.rm("/") == "EINVAL"
    assert dom0.rm("/a/x") == OK
    assert dom0.rm("/a/x/y") == "ENOENT"
    assert dom0.rm("/a") == OK
    assert dom0.ls("/") == ["tool"]
    assert [dom0.read(path) for path in ("/a", "/a/b", "/a/b/c")] == ["ENOENT"] * 3


def test_a_thousand_levels(dom0: Any) -> None:
    assert dom0.write("/a" + "/x" * 1000, b"deep") == OK
    assert dom0.rm("/a") == OK
    assert dom0.ls("/") == ["tool"]


# Permissions


def test_letters(dom0: Any, guest: Any) -> None:
    for letter, read, write in (("n", "EACCES", "EACCES"), ("r", b"v", "EACCES"), ("w", "EACCES", OK), ("b", b"v", OK)):
        for perms in (f"n0 {letter}5", f"{letter}0", f"{letter}0 b7", f"n0 {letter}5 b5 n5"):
            dom0.write("/a", b"v")
            dom0.chmod("/a", perms)
            assert guest.read("/a") == read
            assert (guest.ls("/a"), guest.perms("/a")) == (
                (read if read == "EACCES" else []),
                perms if read == b"v" else read,
            )
            assert (guest.write("/a", b"v"), guest.mkdir("/a")) == (write, write)
            assert guest.chmod("/a", "n5") == "EACCES"
            assert guest.rm("/a") == write


@pytest.mark.parametrize("perm", ["", "n", "nabc", "0", "x0", "n0 ", "n 0", "N0", "n-1", "n65536", "n0x0", "nn0"])
def test_bad_permissions(dom0: Any, perm: str) -> None:
    assert dom0.ask(XsMsgType.SET_PERMS, f"/tool\0{perm}\0".encode()) == "EINVAL"
    assert dom0.perms("/tool") == "n0"


def test_a_guest_that_creates_becomes_the_owner(dom0: Any, guest: Any) -> None:
    dom0.mkdir("/a")
    dom0.chmod("/a", "n0 b5 r7")
    assert guest.write("/a/b/c") == OK
    assert (dom0.perms("/a/b"), dom0.perms("/a/b/c"), dom0.perms("/a")) == ("n5 b5 r7", "n5 b5 r7", "n0 b5 r7")
    dom0.mkdir("/a/d")
    assert dom0.perms("/a/d") == "n0 b5 r7"
    assert guest.chmod("/a/b", "n5 r0") == OK
    assert guest.chmod("/a/b", "n7") == "EPERM"
    assert guest.chmod("/a/b", "n0") == "EPERM"


def test_creation_needs_write_on_the_nearest_ancestor(dom0: Any, guest: Any) -> None:
    dom0.mkdir("/a")
    dom0.chmod("/a", "r0")
    assert guest.write("/a/b/c") == guest.mkdir("/a/b/c") == "EACCES"
    assert dom0.ls("/a") == []


def test_rm_needs_write_on_the_node_alone(dom0: Any, guest: Any) -> None:
    dom0.mkdir("/a/b/secret")
    dom0.chmod("/a", "n0")
    dom0.chmod("/a/b", "n0 w5")
    dom0.chmod("/a/b/secret", "n0")
    assert guest.rm("/a/b") == OK
    assert dom0.ls("/a") == []


def test_what_may_not_be_known_is_hidden(dom0: Any, guest: Any) -> None:
    dom0.mkdir("/hidden/there")
    dom0.mkdir("/open")
    dom0.chmod("/hidden", "n0")
    dom0.chmod("/open", "r0")
    for path in ("/hidden/there", "/hidden/not", "/hidden/not/at/all"):
        for operation in (guest.read, guest.ls, guest.perms, guest.rm, guest.write, guest.mkdir):
            assert operation(path) == "EACCES"
        assert guest.chmod(path, "n5") == "EACCES"
    assert (guest.read("/open/not"), guest.ls("/open/not/at/all"), guest.perms("/open/not")) == ("ENOENT",) * 3
    # Whoever may not remove there is not told whether there was something to remove.
    assert (guest.rm("/open/not"), guest.chmod("/open/not", "n5")) == ("EACCES", "EACCES")
    assert (guest.rm("not"), guest.rm("not/at/all"), guest.chmod("not", "n5")) == (OK, "ENOENT", "ENOENT")


def test_a_guest_cannot_touch_the_root(guest: Any) -> None:
    assert (guest.read("/"), guest.ls("/"), guest.write("/x"), guest.chmod("/", "n5")) == ("EACCES",) * 4
    assert guest.rm("/") == "EACCES"


# Domains that come and go


def test_the_owner_must_exist(dom0: Any) -> None:
    dom0.mkdir("/a")
    assert dom0.chmod("/a", "n9") == "ENOENT"
    assert dom0.chmod("/a", "n0 r9") == OK
    assert dom0.perms("/a") == "n0 r9"


def test_entries_for_domains_to_come_are_void(core: Xenstored, dom0: Any, talk: Any) -> None:
    dom0.write("/a", b"v")
    dom0.chmod("/a", "n0 r9")
    assert talk(9).read("/a") == "EACCES"
    core.introduce(Domid(9))
    assert talk(9).read("/a") == "EACCES"
    dom0.chmod("/a", "n0 r9")
    assert talk(9).read("/a") == b"v"


def test_entries_for_domains_that_died_are_void(core: Xenstored, dom0: Any, talk: Any) -> None:
    dom0.write("/a", b"v")
    dom0.chmod("/a", "n0 b5")
    assert talk(5).read("/a") == b"v"
    core.release(Domid(5))
    core.introduce(Domid(5))
    assert talk(5).read("/a") == talk(5).write("/a") == "EACCES"
    assert dom0.perms("/a") == "n0 b5"


def test_release_takes_what_the_domain_owns(core: Xenstored, dom0: Any, guest: Any) -> None:
    for path in ("/mine", "/theirs/mine"):
        dom0.mkdir(f"{path}/deep/below")
        dom0.chmod(path, "n5")
    core.release(Domid(5))
    assert guest.session.closed
    assert dom0.read("/mine/deep/below") == dom0.read("/theirs/mine") == dom0.read("/local/domain/5") == "ENOENT"
    assert dom0.ls("/theirs") == []
    for domid, name in ((5, "ENOENT"), (0, "EINVAL")):
        with pytest.raises(XenstoreError, match=name):
            core.release(Domid(domid))
