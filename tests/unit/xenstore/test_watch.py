"""Watches: who hears of what, when, how often, and who must not."""

from collections.abc import Callable
from typing import Any

import pytest

from xenblk.abi import Domid
from xenblk.xenstore.session import OUTPUT_BYTES_MAX, UNREAD_BYTES_MAX
from xenblk.xenstore.wire import Packet, XsMsgType
from xenblk.xenstore.xenstored import Xenstored

OK = b"OK\0"
WATCH, WRITE, UNWATCH = XsMsgType.WATCH, XsMsgType.WRITE, XsMsgType.UNWATCH


@pytest.fixture
def told(talk: Callable[[int], Any]) -> Callable[..., Any]:
    """A session of `domid` that watches paths, each with itself for a token, and has read the first events."""

    def make(*paths: str, domid: int = 0) -> Any:
        watcher = talk(domid)
        for path in paths:
            assert watcher.watch(path, path) == OK
        assert watcher.events() == [(path, path) for path in paths]
        return watcher

    return make


# Order


@pytest.mark.parametrize(
    "path", ["/", "/tool", "/not/there", "relative", "@releaseDomain", "@introduceDomain", "@other"]
)
def test_the_first_event_follows_the_answer(talk: Any, path: str) -> None:
    for domid in (0, 7):
        watcher = talk(domid)
        watcher.watch(path, "t")
        assert watcher.log == [WATCH, (path, "t")]


def test_the_event_of_an_own_write_precedes_its_answer(dom0: Any) -> None:
    dom0.watch("/a", "t")
    dom0.log.clear()
    dom0.write("/a", b"v")
    assert dom0.log == [("/a", "t"), WRITE]


def test_queued_events_precede_the_answer_to_unwatch(dom0: Any, told: Any) -> None:
    watcher = told("/a")
    dom0.write("/a")
    watcher.unwatch("/a", "/a")
    assert watcher.log == [("/a", "/a"), UNWATCH]


def test_order_of_registration(dom0: Any, told: Any) -> None:
    watcher = told("/a/b", "/", "/a")
    dom0.write("/a/b")
    assert watcher.events() == [("/a/b", "/a/b"), ("/a/b", "/"), ("/a/b", "/a")]


# What matches


def test_at_or_above(dom0: Any, told: Any) -> None:
    watcher = told("/a")
    for path in ("/ab", "/b", "/b/a", "/A"):
        dom0.write(path)
    assert watcher.events() == []
    for path in ("/a", "/a/b", "/a/x/y/z"):
        dom0.write(path)
    assert watcher.events() == [(path, "/a") for path in ("/a", "/a/b", "/a/x/y/z")]
    below = told("/a/b/c")
    dom0.write("/a/b")
    assert below.events() == []


def test_creation_is_one_change(dom0: Any, told: Any) -> None:
    watcher = told("/x", "/x/y", "/x/y/z", "/x/y/z/below")
    dom0.mkdir("/x/y/z")
    assert watcher.events() == [("/x/y/z", "/x"), ("/x/y/z", "/x/y"), ("/x/y/z", "/x/y/z")]


def test_what_changes_and_what_does_not(dom0: Any, told: Any) -> None:
    dom0.write("/a", b"v")
    watcher = told("/")
    for quiet in (dom0.read, dom0.ls, dom0.perms, dom0.mkdir):
        quiet("/a")
    assert dom0.rm("/missing") == OK
    assert dom0.rm("/missing/more") == "ENOENT"
    assert watcher.events() == []
    dom0.write("/a", b"v")
    assert watcher.events() == [("/a", "/")]
    dom0.chmod("/a", "n0")
    assert watcher.events() == [("/a", "/")]
    dom0.rm("/a")
    assert watcher.events() == [("/a", "/")]


def test_removal_tells_each_node_below_children_first(dom0: Any, told: Any) -> None:
    for path in ("/r/1", "/r/2/x", "/r/3"):
        dom0.mkdir(path)
    watcher = told("/", "/r", "/r/2", "/r/2/x", "/r/1", "/r/none", "/r/2/none", "/r/3/none")
    dom0.rm("/r")
    below = [("/r/1", "/r/1"), ("/r/2/x", "/r/2/x"), ("/r/2", "/r/2")]
    assert watcher.events() == [*below, ("/r", "/"), ("/r", "/r")]


# Names and tokens


def test_relative_paths(dom0: Any, guest: Any) -> None:
    guest.watch("dev", "t")
    assert guest.events() == [("dev", "t")]
    dom0.write("/local/domain/5/dev/x")
    guest.write("dev", b"")
    dom0.write("/local/domain/5/device", b"")
    assert guest.events() == [("dev/x", "t"), ("dev", "t")]
    dom0.rm("/local/domain/5/dev")
    assert guest.events() == [("dev", "t")]
    assert guest.watch("/local/domain/5/dev", "t") == "EEXIST"
    assert guest.unwatch("/local/domain/5/dev", "t") == OK
    assert guest.unwatch("dev", "t") == "ENOENT"


@pytest.mark.parametrize("token", ["", "t", " ", "a:b/c", "\x01\n\x7f", "x" * 4000])
def test_tokens(dom0: Any, token: str) -> None:
    assert dom0.watch("/a", token) == OK
    dom0.log.clear()
    dom0.write("/a")
    assert dom0.log == [("/a", token), WRITE]


def test_tokens_are_bytes(dom0: Any) -> None:
    dom0.session.feed(b"\x04\0\0\0" + b"\x01\0\0\0" + bytes(4) + b"\x05\0\0\0" + b"/\0\xff\xfe\0")
    sent = b""
    while piece := dom0.session.output:
        dom0.session.consume(len(piece))
        sent += piece
    assert sent.endswith(b"/\0\xff\xfe\0")


def test_an_event_too_long_is_dropped(dom0: Any) -> None:
    token = "x" * 4080
    assert dom0.watch("/", token) == OK
    assert dom0.events() == [("/", token)]
    assert dom0.write("/" + "y" * 30) == OK
    assert dom0.write("/short") == OK
    assert dom0.events() == [("/short", token)]


def test_duplicates(dom0: Any, talk: Any) -> None:
    assert dom0.watch("/a", "t") == OK
    assert dom0.watch("/a", "t") == "EEXIST"
    assert dom0.watch("/a", "u") == dom0.watch("/b", "t") == talk(0).watch("/a", "t") == OK
    dom0.events()
    dom0.write("/a")
    assert dom0.events() == [("/a", "t"), ("/a", "u")]


def test_unwatch(dom0: Any) -> None:
    dom0.watch("/a", "t")
    for path, token in (("/a", "u"), ("/b", "t"), ("@releaseDomain", "t")):
        assert dom0.unwatch(path, token) == "ENOENT"
    assert dom0.unwatch("/a", "t") == OK
    assert dom0.unwatch("/a", "t") == "ENOENT"
    dom0.events()
    dom0.write("/a")
    assert dom0.events() == []


@pytest.mark.parametrize("path", ["", "/a/", "//", "/a b", "@" + "a" * 2048])
def test_bad_paths(dom0: Any, path: str) -> None:
    assert (dom0.watch(path, "t"), dom0.unwatch(path, "t")) == ("EINVAL", "ENOENT")


@pytest.mark.parametrize("name", ["@a b", "@/", "@", "@\u00e4"])
def test_any_name_with_an_at_sign_may_be_watched(dom0: Any, name: str) -> None:
    assert (dom0.watch(name, "t"), dom0.unwatch(name, "t")) == (OK, OK)


def test_transactions_do_not_matter_to_watches(dom0: Any) -> None:
    assert dom0.ask(WATCH, b"/a\0t\0", 99) == OK
    assert dom0.ask(UNWATCH, b"/a\0t\0", 99) == OK


def test_reset_watches_and_the_end_of_a_session(core: Xenstored, dom0: Any, told: Any) -> None:
    watcher, gone = told("/a", "@releaseDomain"), told("/a")
    assert watcher.ask(XsMsgType.RESET_WATCHES, b"\0") == OK
    gone.session.close()
    dom0.write("/a")
    core.release(Domid(7))
    assert watcher.events() == gone.events() == []
    assert watcher.watch("/a", "/a") == OK


def test_the_same_event_waits_once(dom0: Any, told: Any) -> None:
    watcher = told("/a")
    for i in range(1000):
        dom0.write("/a", str(i).encode())
        dom0.write("/a/b")
    assert watcher.events() == [("/a", "/a"), ("/a/b", "/a")]
    dom0.write("/a")
    assert watcher.events() == [("/a", "/a")]


# What guests may know


def test_guests_hear_of_what_they_may_read(dom0: Any, told: Any) -> None:
    dom0.write("/s/own", b"")
    dom0.chmod("/s", "n0")
    dom0.chmod("/s/own", "n0 r7")
    watcher = told("/", "/s", "/s/own", "/s/secret", domid=7)
    dom0.write("/s/own", b"1")
    assert watcher.events() == [("/s/own", "/"), ("/s/own", "/s"), ("/s/own", "/s/own")]
    for change in (dom0.write, dom0.write, dom0.rm):
        change("/s/secret")
    dom0.write("/other", b"")
    dom0.write("/s/secret/deep", b"")
    dom0.chmod("/s/secret", "n0")
    assert watcher.events() == []


def test_guests_hear_of_nothing_below_what_they_may_not_read(dom0: Any, told: Any) -> None:
    for path in ("/s", "/s/own"):
        dom0.mkdir(path)
        dom0.chmod(path, "n0")
    dom0.mkdir("/s/own/deep")
    watcher = told("/", "/s/own/deep", domid=7)
    dom0.rm("/s")
    tx = dom0.start()
    dom0.write("/s/own/deep", b"", tx)
    dom0.end(tx)
    assert watcher.events() == []


def test_losing_sight_is_the_last_event(dom0: Any, told: Any) -> None:
    dom0.write("/s", b"")
    dom0.chmod("/s", "n0 r7")
    watcher = told("/s", domid=7)
    dom0.chmod("/s", "n0")
    assert watcher.events() == [("/s", "/s")]
    dom0.write("/s", b"")
    dom0.chmod("/s", "n0 r7")
    assert watcher.events() == [("/s", "/s")]
    dom0.rm("/s")
    assert watcher.events() == [("/s", "/s")]


def test_names_in_a_readable_directory_are_known(dom0: Any, told: Any) -> None:
    dom0.mkdir("/d/locked")
    dom0.chmod("/d", "n0 r7")
    dom0.chmod("/d/locked", "n0")
    watcher = told("/d", "/d/locked", domid=7)
    dom0.write("/d/locked", b"1")
    assert watcher.events() == [("/d/locked", "/d"), ("/d/locked", "/d/locked")]
    dom0.rm("/d")
    assert watcher.events() == [("/d/locked", "/d/locked"), ("/d", "/d")]


# Domains


def test_domains_come_and_go(core: Xenstored, told: Any) -> None:
    watcher, stranger = (
        told("@introduceDomain", "@releaseDomain", "/"),
        told("@introduceDomain", "@releaseDomain", domid=7),
    )
    core.introduce(Domid(9))
    core.introduce(Domid(9))
    core.introduce(Domid(10))
    core.release(Domid(9))
    introduced, released = (("@introduceDomain",) * 2, ("@releaseDomain",) * 2)
    assert watcher.events() == [introduced, introduced, released]
    assert stranger.events() == []


def test_guests_hear_of_domains_if_they_may_read_the_name(core: Xenstored, dom0: Any, told: Any) -> None:
    dom0.chmod("/", "r0")
    friend, stranger = (told("@introduceDomain", "@releaseDomain", "/", domid=domid) for domid in (5, 7))
    assert dom0.chmod("@releaseDomain", "n0 r5") == OK
    core.introduce(Domid(9))
    core.release(Domid(9))
    assert friend.events() == [("@releaseDomain",) * 2]
    assert dom0.chmod("@releaseDomain", "n0") == OK
    core.introduce(Domid(9))
    core.release(Domid(9))
    assert friend.events() == []
    assert stranger.events() == []


def test_a_special_name_outlives_its_owner(core: Xenstored, dom0: Any, told: Any) -> None:
    dom0.chmod("@releaseDomain", "n5")
    owner, watcher = told("@releaseDomain", domid=5), told("@releaseDomain")
    core.release(Domid(5))
    assert owner.session.closed
    assert watcher.events() == [("@releaseDomain",) * 2]
    core.introduce(Domid(5))
    namesake = told("@releaseDomain", domid=5)
    core.release(Domid(7))
    assert (watcher.events(), namesake.events()) == ([("@releaseDomain",) * 2], [])


def test_permissions_of_a_special_name_in_a_transaction(core: Xenstored, dom0: Any, told: Any) -> None:
    friend = told("@introduceDomain", domid=5)
    tx = dom0.start()
    assert dom0.chmod("@introduceDomain", "n0 r5", tx) == OK
    core.introduce(Domid(9))
    assert friend.events() == [("@introduceDomain",) * 2], "they are no part of the tree, nor of the transaction"
    assert dom0.end(tx, b"F\0") == OK
    core.introduce(Domid(10))
    assert friend.events() == [("@introduceDomain",) * 2]


def test_the_end_of_a_domain_is_told_after_its_nodes(core: Xenstored, guest: Any, told: Any) -> None:
    guest.write("a/b")
    watcher = told("@releaseDomain", "/", "/local/domain/5/a/b")
    core.release(Domid(5))
    assert watcher.events() == [
        ("/local/domain/5/a/b",) * 2,
        ("/local/domain/5", "/"),
        ("@releaseDomain",) * 2,
    ]


# Clients that do not read


def test_a_client_that_never_reads_its_events_is_disconnected(dom0: Any, talk: Any) -> None:
    idle, told = talk(0).session, talk(0)
    idle.feed(Packet(WATCH, 1, 0, b"w\0" + b"t" * 4000 + b"\0").encode())
    assert told.watch("w", "t") == OK
    times = UNREAD_BYTES_MAX // 4000 + 1
    for i in range(times):  # each time another path, so that no event is like one that waits
        dom0.write(f"w/{i}")
    assert idle.closed
    assert idle.output == b""
    assert not told.session.closed
    assert len(told.events()) == times + 1
    idle.feed(Packet(WRITE, 1, 0, b"late\0v").encode())
    assert dom0.read("late") == "ENOENT"


def test_answers_alone_never_disconnect(dom0: Any, talk: Any) -> None:
    dom0.write("/b", b"x" * 4000)
    lazy = talk(0).session
    requests = Packet(XsMsgType.READ, 1, 0, b"/b\0").encode() * (OUTPUT_BYTES_MAX // 20)
    while not lazy.waiting:
        lazy.feed(requests[: 1 << 14])
    assert not lazy.closed
