"""Transactions: which changes from outside make a commit fail, what is seen inside, what is told at the end."""

from collections.abc import Callable
from typing import Any

import pytest

from xenblk.abi import Domid
from xenblk.xenstore.wire import XsMsgType
from xenblk.xenstore.xenstored import Xenstored

OK = b"OK\0"
Step = Callable[[Any, int], Any]


@pytest.fixture
def tree(dom0: Any) -> Any:
    """/d with a, b and an empty directory e; a session to look at it."""
    for path in ("/d/a", "/d/b", "/d/e"):
        dom0.write(path, b"0")
    return dom0


def _write(*paths: str) -> Step:
    return lambda who, tx: [who.write(path, b"0", tx) for path in paths]


def _read(*paths: str) -> Step:
    return lambda who, tx: [who.read(path, tx) for path in paths]


def _rm(path: str) -> Step:
    return lambda who, tx: who.rm(path, tx)


def _both(*steps: Step) -> Step:
    return lambda who, tx: [step(who, tx) for step in steps]


# What the transaction does | what is done outside meanwhile | the answer to the commit
TABLE = [
    ("nothing | write a", _both(), _write("/d/a"), OK),
    ("read a | write a", _read("/d/a"), _write("/d/a"), "EAGAIN"),
    ("read a | set_perms a", _read("/d/a"), lambda who, _: who.chmod("/d/a", "n0"), "EAGAIN"),
    ("read a | write b", _read("/d/a"), _write("/d/b"), OK),
    ("read a, write b | write a", _both(_read("/d/a"), _write("/d/b")), _write("/d/a"), "EAGAIN"),
    ("write a | write a", _write("/d/a"), _write("/d/a"), "EAGAIN"),
    ("write a | write b", _write("/d/a"), _write("/d/b"), OK),
    ("create c | create sibling", _write("/d/c"), _write("/d/x"), "EAGAIN"),
    ("create c | remove sibling", _write("/d/c"), _rm("/d/b"), "EAGAIN"),
    ("create e/y | create sibling of e", _write("/d/e/y"), _write("/d/x"), OK),
    ("create e/y | remove e", _write("/d/e/y"), _rm("/d/e"), "EAGAIN"),
    ("list d | create in d", lambda who, tx: who.ls("/d", tx), _write("/d/x"), "EAGAIN"),
    ("list d | write d/a", lambda who, tx: who.ls("/d", tx), _write("/d/a"), OK),
    ("read missing c | create c", _read("/d/c"), _write("/d/c"), "EAGAIN"),
    ("read missing c | create sibling", _read("/d/c"), _write("/d/x"), "EAGAIN"),
    ("remove a | write a", _rm("/d/a"), _write("/d/a"), "EAGAIN"),
    ("remove a | write b", _rm("/d/a"), _write("/d/b"), OK),
    ("remove missing c | create c", _rm("/d/c"), _write("/d/c"), "EAGAIN"),
    ("remove e | create e/y", _rm("/d/e"), _write("/d/e/y"), "EAGAIN"),
    ("remove d | write below", _rm("/d"), _write("/d/b"), "EAGAIN"),
    ("set_perms a | write a", lambda who, tx: who.chmod("/d/a", "r0", tx), _write("/d/a"), "EAGAIN"),
    ("mkdir of existing a | write a", lambda who, tx: who.mkdir("/d/a", tx), _write("/d/a"), "EAGAIN"),
]


@pytest.mark.parametrize("same", [False, True], ids=["other", "same"])
@pytest.mark.parametrize(("inside", "outside", "answer"), [row[1:] for row in TABLE], ids=[row[0] for row in TABLE])
def test_conflicts(talk: Any, tree: Any, inside: Step, outside: Step, answer: Any, same: bool) -> None:
    """Outside is another connection as well as the same one without the transaction."""
    one = talk(0)
    tx = one.start()
    inside(one, tx)
    outside(one if same else tree, 0)
    before = _dump(tree, "/")
    assert one.end(tx) == answer
    if answer == "EAGAIN":
        assert _dump(tree, "/") == before
    assert one.end(tx) == one.read("/d", tx) == "ENOENT"


@pytest.mark.parametrize("inside", [row[1] for row in TABLE], ids=[row[0] for row in TABLE])
def test_alone_is_the_same_as_without(tree: Any, inside: Step) -> None:
    tx = tree.start()
    inside(tree, tx)
    assert tree.end(tx) == OK
    plain = type(tree)(Xenstored(), 0)
    for path in ("/d/a", "/d/b", "/d/e"):
        plain.write(path, b"0")
    inside(plain, 0)
    assert _dump(tree, "/") == _dump(plain, "/")


def _dump(who: Any, path: str) -> Any:
    names = who.ls(path)
    return (
        names
        if names == "ENOENT"
        else (who.read(path), who.perms(path), [(name, _dump(who, f"{path.rstrip('/')}/{name}")) for name in names])
    )


def test_crossed_transactions(tree: Any, talk: Any) -> None:
    one, other = talk(0), talk(0)
    first, second = one.start(), other.start()
    one.read("/d/a", first)
    other.read("/d/b", second)
    one.write("/d/b", b"1", first)
    other.write("/d/a", b"2", second)
    assert (one.end(first), other.end(second)) == (OK, "EAGAIN")
    assert (tree.read("/d/a"), tree.read("/d/b")) == (b"0", b"1")


def test_both_create_siblings(tree: Any) -> None:
    first, second = tree.start(), tree.start()
    tree.write("/d/x", b"", first)
    tree.write("/d/y", b"", second)
    assert (tree.end(first), tree.end(second)) == (OK, "EAGAIN")
    assert tree.ls("/d") == ["a", "b", "e", "x"]


def test_two_that_remove_the_same(tree: Any) -> None:
    first, second = tree.start(), tree.start()
    assert tree.rm("/d", first) == tree.rm("/d", second) == OK
    assert (tree.end(first), tree.end(second)) == (OK, "EAGAIN")
    assert tree.ls("/") == ["tool"]


# What is seen


def test_own_changes_are_seen_inside_only(tree: Any, talk: Any) -> None:
    tx = tree.start()
    tree.write("/d/a", b"1", tx)
    tree.write("/d/new/deep", b"2", tx)
    tree.rm("/d/b", tx)
    tree.chmod("/d/e", "r0", tx)
    assert (tree.read("/d/a", tx), tree.read("/d/new/deep", tx), tree.read("/d/b", tx)) == (b"1", b"2", "ENOENT")
    assert (tree.ls("/d", tx), tree.perms("/d/e", tx)) == (["a", "e", "new"], "r0")
    for who in (tree, talk(0)):
        assert (who.read("/d/a"), who.read("/d/new/deep"), who.read("/d/b")) == (b"0", "ENOENT", b"0")
        assert (who.ls("/d"), who.perms("/d/e")) == (["a", "b", "e"], "n0")
    assert tree.end(tx) == OK
    assert (tree.ls("/d"), tree.perms("/d/e"), tree.read("/d/new/deep")) == (["a", "e", "new"], "r0", b"2")


def test_a_node_stays_as_it_was_first_seen(tree: Any) -> None:
    tx = tree.start()
    tree.write("/d/a", b"late")
    assert tree.read("/d/a", tx) == b"late"
    tree.write("/d/a", b"later")
    assert tree.read("/d/a", tx) == b"late"
    assert tree.end(tx) == "EAGAIN"


def test_a_tree_that_was_seen_in_pieces(tree: Any) -> None:
    """A node whose parent went before it was looked at, a name whose node did: no commit, and nobody is harmed."""
    orphan, nameless = tree.start(), tree.start()
    tree.read("/d/a", orphan)
    tree.ls("/d", nameless)
    tree.rm("/d")
    assert (tree.rm("/d/a", orphan), tree.rm("/d", nameless)) == ("EINVAL", "EIO")
    assert tree.end(orphan) == tree.end(nameless) == "EAGAIN"
    assert tree.ls("/") == ["tool"]


def test_abort(tree: Any, talk: Any) -> None:
    watcher = talk(0)
    watcher.watch("/", "t")
    watcher.events()
    tx = tree.start()
    tree.write("/d/a", b"1", tx)
    tree.rm("/d/b", tx)
    assert tree.end(tx, b"F\0") == OK
    assert (tree.read("/d/a"), tree.ls("/d")) == (b"0", ["a", "b", "e"])
    assert watcher.events() == []


# Identifiers and ends


def test_ids(dom0: Any, talk: Any) -> None:
    assert [dom0.start() for _ in range(3)] == [1, 2, 3]
    other = talk(0)
    assert other.read("/", 1) == other.end(1) == "ENOENT"
    assert other.start() == 1
    assert dom0.end(2) == OK
    assert dom0.end(2) == dom0.read("/", 2) == "ENOENT"
    assert dom0.start() == 4
    assert (dom0.end(0), dom0.end(77)) == ("ENOENT", "ENOENT")


def test_start_inside(dom0: Any) -> None:
    tx = dom0.start()
    assert dom0.ask(XsMsgType.TRANSACTION_START, b"\0", tx) == "EBUSY"
    assert dom0.ask(XsMsgType.TRANSACTION_START, b"\0", 99) == "ENOENT"
    assert dom0.end(tx) == OK


@pytest.mark.parametrize("how", [b"", b"T", b"\0", b"X\0", b"TT\0", b"T\0T\0", b"t\0", b"T\0\0"])
def test_a_bad_end_leaves_it_alive(dom0: Any, how: bytes) -> None:
    tx = dom0.start()
    dom0.write("/a", b"v", tx)
    assert dom0.end(tx, how) == "EINVAL"
    assert dom0.end(99, how) == "ENOENT"
    assert dom0.read("/a", tx) == b"v"
    assert dom0.end(tx) == OK
    assert dom0.read("/a") == b"v"


def test_reset_watches_drops_transactions(dom0: Any) -> None:
    tx = dom0.start()
    assert dom0.ask(XsMsgType.RESET_WATCHES, b"\0", tx) == OK
    assert dom0.end(tx) == "ENOENT"


def test_permissions_hold_inside(guest: Any, dom0: Any) -> None:
    tx = guest.start()
    assert (guest.read("/tool", tx), guest.write("/x", b"", tx), guest.write("mine", b"", tx)) == (
        "EACCES",
        "EACCES",
        OK,
    )
    assert guest.end(tx) == OK
    assert dom0.perms("/local/domain/5/mine") == "n5"


def test_a_domain_that_dies_leaves_nothing_half_done(core: Xenstored, guest: Any, dom0: Any) -> None:
    mine, other = guest.start(), dom0.start()
    guest.write("mine", b"", mine)
    dom0.write("/local/domain/5/theirs", b"", other)
    core.release(Domid(5))
    assert dom0.end(other) == "ENOMEM"
    assert dom0.ls("/local/domain") == []


# Events


def _told(dom0: Any, talk: Any, *watched: str) -> Any:
    watcher = talk(0)
    for path in watched:
        watcher.watch(path, path)
    watcher.events()
    return watcher


def test_events_once_each_in_the_order_of_first_touch(tree: Any, talk: Any) -> None:
    for name in "amz":
        tree.write(f"/w/{name}", b"")
    watcher = _told(tree, talk, "/w")
    tx = tree.start()
    tree.read("/w/m", tx)
    for name in "zamz":
        tree.write(f"/w/{name}", b"1", tx)
    assert watcher.events() == []
    assert tree.end(tx) == OK
    assert watcher.events() == [(f"/w/{name}", "/w") for name in "mza"]


def test_events_of_what_is_read_or_left_alone(tree: Any, talk: Any) -> None:
    watcher = _told(tree, talk, "/")
    tx = tree.start()
    tree.read("/d/a", tx)
    tree.mkdir("/d/e", tx)
    tree.rm("/d/missing", tx)
    assert tree.end(tx) == OK
    assert watcher.events() == []


def test_created_and_removed_inside(tree: Any, talk: Any) -> None:
    watcher = _told(tree, talk, "/", "/d/x", "/d/x/y")
    before = _dump(tree, "/")
    tx = tree.start()
    tree.write("/d/x/y", b"", tx)
    tree.rm("/d/x", tx)
    assert tree.end(tx) == OK
    assert watcher.events() == []
    assert _dump(tree, "/") == before


def test_a_subtree_removed_inside(tree: Any, talk: Any) -> None:
    watcher = _told(tree, talk, "/", "/d/b", "/d/none")
    tx = tree.start()
    tree.write("/d/b", b"1", tx)
    tree.rm("/d", tx)
    assert tree.end(tx) == OK
    # What was written before it was removed is told of as if it had been removed by itself.
    assert watcher.events() == [("/d/b", "/"), ("/d/b", "/d/b"), ("/d", "/")]


def test_removed_and_made_again_inside(tree: Any, talk: Any) -> None:
    watcher = _told(tree, talk, "/", "/d/a", "/d/b")
    tx = tree.start()
    tree.rm("/d", tx)
    tree.write("/d/b", b"new", tx)
    assert tree.end(tx) == OK
    assert sorted(watcher.events()) == [("/d", "/"), ("/d/a", "/d/a"), ("/d/b", "/"), ("/d/b", "/d/b")]
    assert (tree.ls("/d"), tree.read("/d/b")) == (["b"], b"new")


def test_regression_what_a_guest_makes_inside_counts_at_the_commit(core: Xenstored, guest: Any, dom0: Any) -> None:
    """Inside, only what the domain owns already keeps it from making more."""
    core.quotas.nodes = 4
    tx = guest.start()
    for path in ("a/b/c/d", "e", "f"):
        assert guest.mkdir(path, tx) == OK
    assert guest.rm("a", tx) == OK
    assert guest.end(tx) == OK
    assert guest.ls("/local/domain/5") == ["e", "f"]
    tx = guest.start()
    assert (guest.mkdir("g", tx), guest.end(tx)) == (OK, "ENOSPC")
    assert guest.mkdir("g") == OK
    tx = guest.start()
    assert (guest.rm("g", tx), guest.mkdir("h", tx), guest.end(tx)) == (OK, "ENOSPC", OK)


def test_regression_a_tree_with_more_nodes_than_a_transaction_may_look_at(core: Xenstored, guest: Any) -> None:
    """To look at one too many says so; to remove a tree that has too many is EIO, as from the C daemon."""
    guest.mkdir("a/b/c")
    core.quotas.transaction_nodes = 3
    tx = guest.start()
    assert (guest.rm("a", tx), guest.read("x", tx), guest.end(tx)) == ("EIO", "ENOSPC", "ENOMEM")
    assert guest.ls("a/b") == ["c"]
    assert core.tree.check() == []


def test_regression_a_special_name_is_no_part_of_a_transaction(dom0: Any, guest: Any) -> None:
    """Whether its permissions may be read or not, nothing is looked at that could be in the way of the commit."""
    guest.write("a")
    dom0.chmod("@introduceDomain", "n0 r5")
    tx = guest.start()
    assert (guest.perms("@releaseDomain", tx), guest.perms("@introduceDomain", tx)) == ("EACCES", "n0 r5")
    assert guest.write("a", b"inside", tx) == OK
    assert (dom0.chmod("@introduceDomain", "n0"), dom0.chmod("@releaseDomain", "n0"), dom0.mkdir("/b")) == (OK, OK, OK)
    assert guest.perms("@introduceDomain", tx) == "EACCES"
    assert guest.end(tx) == OK
