"""What a guest may use: the last that is allowed, the first that is refused, and what is given back is free again.

Domain 0 does the same things without limits. A limit that can be small here is made small by `CONTROL quota set`, which
is thereby seen to work; `test_defaults` has the numbers that hold without it.
"""

from typing import Any

import pytest

from xenblk.xenstore.store import NODE_HEADER_BYTES, PERM_BYTES
from xenblk.xenstore.xenstored import Xenstored

OK = b"OK\0"
HOME = "/local/domain/5"
OVERHEAD = NODE_HEADER_BYTES + PERM_BYTES


def use(core: Xenstored) -> tuple[int, int, int, int]:
    domain = core.domains.introduced(5)
    assert domain is not None
    return len(domain.owned), domain.nr_watches, domain.nr_transactions, domain.nr_outstanding


def test_defaults(dom0: Any) -> None:
    shown = dom0.control("quota")
    assert isinstance(shown, bytes)
    found = [
        (name.strip(), int(rest.split()[0])) for name, rest in (r.split(":") for r in shown.decode().split("\n")[1:-1])
    ]
    assert found == [
        ("nodes", 1000),
        ("watches", 128),
        ("transactions", 10),
        ("outstanding", 20),
        ("transaction-nodes", 1024),
        ("memory", 2621440),
        ("node-size", 2048),
        ("path-max", 2048),
        ("permissions", 5),
    ]


@pytest.mark.parametrize("words", [("nodes", "0"), ("nodes", "-1"), ("nodes", "x"), ("nodes", "2147483648"), ("", "1")])
def test_what_cannot_be_set(dom0: Any, words: tuple[str, str]) -> None:
    before = dom0.control("quota")
    assert dom0.control("quota", "set", *words) == "EINVAL"
    assert dom0.control("quota") == before
    assert dom0.control("quota", "set", "nodes", "2147483647") == OK


# Nodes


def test_nodes(core: Xenstored, guest: Any, refused: Any) -> None:
    for i in range(999):  # the home is one
        assert guest.write(f"d{i % 9}/{i}" if i > 8 else f"d{i}") == OK
    assert use(core)[0] == 1000
    assert refused(lambda: guest.write("one-more")) == refused(lambda: guest.mkdir("d1/one-more")) == "ENOSPC"
    assert guest.write("d1", b"what is there may be written") == OK
    assert guest.rm("d1/10") == OK
    assert guest.mkdir("instead") == OK
    assert refused(lambda: guest.mkdir("one-more")) == "ENOSPC"


def test_nodes_and_their_parents_are_made_together_or_not_at_all(guest: Any, limit: Any, refused: Any) -> None:
    limit("nodes", 4)
    assert refused(lambda: guest.write("a/b/c/d")) == "ENOSPC"
    assert guest.write("a/b/c") == OK


def test_nodes_that_domain_0_makes_or_gives_count_and_are_not_limited(
    core: Xenstored, guest: Any, dom0: Any, limit: Any, refused: Any
) -> None:
    limit("nodes", 3)
    for name in "abcdef":
        assert dom0.write(f"{HOME}/{name}") == OK
        assert dom0.perms(f"{HOME}/{name}") == "n5"
    assert use(core)[0] == 7
    assert refused(lambda: guest.write("g")) == "ENOSPC"
    for name in "abcde":
        dom0.chmod(f"{HOME}/{name}", "n7")
    assert use(core)[0] == 2
    assert guest.write("g") == OK
    assert refused(lambda: guest.write("h")) == "ENOSPC"


def test_nodes_count_for_their_owner_alone(guest: Any, dom0: Any, talk: Any, limit: Any) -> None:
    limit("nodes", 2)
    dom0.chmod(HOME, "b5")
    other = talk(7)
    assert guest.write("a") == OK
    assert guest.write("b") == "ENOSPC"
    assert (other.write(f"{HOME}/b"), other.write(f"{HOME}/c"), other.write(f"{HOME}/d")) == (OK, OK, "ENOSPC")
    assert dom0.perms(f"{HOME}/b") == "b7"


def test_nodes_in_a_transaction(core: Xenstored, guest: Any, dom0: Any, limit: Any, refused: Any) -> None:
    """As in the C daemon, what is made inside is counted when it is committed, which must leave room for one more."""
    limit("nodes", 4)
    tx = guest.start()
    assert [guest.write(name, b"", tx) for name in "abcd"] == [OK] * 4
    assert use(core)[0] == 1
    assert guest.end(tx) == "ENOSPC"
    assert dom0.ls(HOME) == []
    tx = guest.start()
    assert [guest.write(name, b"", tx) for name in "ab"] == [OK, OK]
    assert guest.end(tx) == OK
    assert use(core)[0] == 3


def test_nodes_of_two_transactions_together(guest: Any, dom0: Any, limit: Any) -> None:
    limit("nodes", 5)
    guest.write("a")
    guest.write("b")
    one, other = guest.start(), guest.start()
    assert guest.write("a/x", b"", one) == guest.write("b/y", b"", other) == OK
    assert (guest.end(one), guest.end(other)) == (OK, "ENOSPC")
    assert (dom0.ls(f"{HOME}/a"), dom0.ls(f"{HOME}/b")) == (["x"], [])


def test_nodes_removed_in_a_transaction_make_room_at_its_end(core: Xenstored, guest: Any, limit: Any) -> None:
    limit("nodes", 4)
    for name in "abc":
        guest.write(name)
    tx = guest.start()
    assert (guest.rm("a", tx), guest.rm("b", tx), guest.write("d", b"", tx)) == (OK, OK, "ENOSPC")
    assert guest.end(tx) == OK, "what was refused at once spoils nothing"
    tx = guest.start()
    assert (guest.rm("c", tx), guest.write("d/e", b"", tx)) == (OK, OK)
    assert guest.end(tx) == OK
    assert use(core)[0] == 3


# Sizes


@pytest.mark.parametrize("inside", [False, True], ids=["outside", "inside"])
def test_node_size(guest: Any, dom0: Any, refused: Any, inside: bool) -> None:
    """A node with its permissions, value and children's names is smaller than 2048 bytes."""
    last = b"v" * (2047 - OVERHEAD)
    guest.write("full", b"old")
    tx = guest.start() if inside else 0
    assert guest.write("full", last, tx) == OK
    assert guest.write("large", b"", tx) == OK
    assert refused(lambda: guest.write("large", last + b"v", tx)) == "ENOSPC"
    assert refused(lambda: guest.mkdir("full/x", tx)) == "ENOSPC"
    assert refused(lambda: guest.chmod("full", "n5 r7", tx)) == "ENOSPC"
    assert (guest.read("full", tx), guest.read("large", tx)) == (last, b"")
    assert dom0.write(f"{HOME}/full", last * 2, tx and dom0.start()) == OK
    if inside:
        assert guest.end(tx) == "ENOMEM"
        assert dom0.read(f"{HOME}/full") == b"old"


def test_node_size_of_names(guest: Any, dom0: Any, refused: Any, limit: Any) -> None:
    limit("node-size", OVERHEAD + 10)
    assert [guest.write(name) for name in ("abc", "def", "g")] == [OK, OK, "ENOSPC"]
    assert refused(lambda: guest.write("g/h")) == "ENOSPC"
    assert guest.rm("abc") == OK
    assert guest.write("g") == OK
    for i in range(20):
        assert dom0.write(f"{HOME}/{i}") == OK
    assert guest.rm("def") == OK, "what is too large may shrink"


def test_path(guest: Any, dom0: Any, refused: Any) -> None:
    """Counted without /local/domain/N/, whether that was given or not."""
    longest, home = "p" * 2048, f"{HOME}/"
    assert guest.write(longest) == guest.write(home + longest) == "ENOSPC", "its name does not fit its parent"
    deep = "/".join(["p" * 511] * 4) + "p"
    assert len(deep) == 2048
    assert guest.write(deep) == OK
    for path in (deep + "p", home + deep + "p"):
        for request in (guest.write, guest.mkdir, guest.rm, guest.read):
            assert refused(lambda path=path, request=request: request(path)) == "EINVAL"
        assert refused(lambda path=path: guest.watch(path, "t")) == "EINVAL"
    assert dom0.write(home + deep + "p") == OK
    assert guest.watch(home + deep, "t") == OK


def test_permissions(guest: Any, dom0: Any, refused: Any) -> None:
    guest.write("a")
    assert guest.chmod("a", "n5 r1 r2 r3 r4") == OK
    assert refused(lambda: guest.chmod("a", "n5 r1 r2 r3 r4 r7")) == "ENOSPC"
    assert guest.perms("a") == "n5 r1 r2 r3 r4"
    tx = guest.start()
    assert guest.chmod("a", "n5 r1 r2 r3 r4 r7", tx) == "ENOSPC"
    assert guest.end(tx) == OK
    assert dom0.chmod(f"{HOME}/a", "n5 " + "r7 " * 20) == OK
