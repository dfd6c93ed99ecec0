"""What went wrong in other xenstoreds, by the number of Xen's advisory: what guests use, and what stays of the dead.

Each test is done to our server, and to ours and the real daemon side by side, which must answer the same byte by byte
and count the same. The other advisories are in test_advisories.py.
"""

import pytest
from oracle.scene import OK, Scene

HOME = "/local/domain/1"


@pytest.mark.parametrize("pair", [(1, 2), (2, 1)])
@pytest.mark.parametrize("order", [(1, 2), (2, 1)])
def test_xsa_233_two_die_at_once_of_which_one_acts_for_the_other(
    scene: Scene, pair: tuple[int, int], order: tuple[int, int]
) -> None:
    assert scene.ask("A", "SET_TARGET", f"{pair[0]}|{pair[1]}|") == OK
    scene.home(pair[1], "/theirs")
    assert scene.ask(str(pair[0]), "READ", "/theirs|") == b""
    scene.start(str(pair[0]))
    scene.destroy(*order)
    for domid in pair:
        assert scene.ask("A", "IS_DOMAIN_INTRODUCED", f"{domid}|") == b"F\0"
        scene.create(domid)
    scene.home(pair[1], "/theirs")
    assert scene.ask(str(pair[0]), "READ", "/theirs|") == "EACCES"


def _fill(scene: Scene) -> int:
    """How many nodes domain 1 can make in its home."""
    scene.home(1)
    for i in range(1200):
        if (answer := scene.ask("1", "WRITE", f"{i % 20}|" if i < 20 else f"{i % 20}/{i}|")) != OK:
            assert answer == "ENOSPC"
            return i
    raise AssertionError("nothing was refused")


def test_xsa_272_nodes_of_a_guest_are_counted(scene: Scene) -> None:
    assert _fill(scene) == 999
    assert scene.used(1) == 1000


def test_xsa_483_nodes_of_the_dead_are_not_counted(scene: Scene) -> None:
    scene.quota("nodes", 50)
    for _ in range(5):
        assert _fill(scene) == 49
        assert scene.used(1) == 50
        scene.destroy(1)
        scene.create(1)
        assert scene.used(1) == 0


def test_xsa_322_a_namesake_has_no_permissions_of_the_dead(scene: Scene) -> None:
    scene.ask("A", "WRITE", "/secret|value")
    scene.ask("A", "SET_PERMS", "/secret|n0|b1|")
    assert scene.ask("1", "READ", "/secret|") == b"value"
    scene.destroy(1)
    scene.create(1)
    for kind, rest in (("READ", ""), ("WRITE", "mine"), ("GET_PERMS", ""), ("RM", "")):
        assert scene.ask("1", kind, f"/secret|{rest}") == "EACCES"
    assert scene.ask("1", "WATCH", "/secret|t|") == OK
    scene.events.clear()
    scene.ask("A", "WRITE", "/secret|other")
    assert scene.events == {}


def test_xsa_417_permissions_for_a_domain_that_is_not_there_yet(scene: Scene) -> None:
    scene.ask("A", "WRITE", "/secret|value")
    scene.ask("A", "SET_PERMS", "/secret|n0|b3|")
    scene.create(3)
    assert scene.ask("3", "READ", "/secret|") == scene.ask("3", "WRITE", "/secret|mine") == "EACCES"
    scene.destroy(3)
    scene.create(3)
    assert scene.ask("3", "READ", "/secret|") == "EACCES"


@pytest.mark.parametrize("scene", ["ours"], indirect=True)
def test_xsa_417_a_dead_domain_that_was_never_introduced(scene: Scene) -> None:
    """It was there when it was named; its namesake is introduced. The real one goes by numbers there."""
    scene.ours.create(3)
    scene.ask("A", "WRITE", "/secret|value")
    scene.ask("A", "SET_PERMS", "/secret|n0|b3|")
    scene.ours.destroy(3)
    scene.create(3)
    assert scene.ask("3", "READ", "/secret|") == "EACCES"


def test_xsa_330_reset_leaves_no_watch_behind(scene: Scene) -> None:
    scene.home(1)
    for i in range(4):
        for j in range(129):
            assert scene.ask("1", "WATCH", f"{HOME}|{i}-{j}|") == OK
        assert scene.ask("1", "WATCH", f"{HOME}|more|") == "E2BIG"
        assert scene.used(1, "watches") == 129
        assert scene.ask("1", "RESET_WATCHES", "|") == OK
        assert scene.used(1, "watches") == 0
        scene.events.clear()
        scene.ask("A", "WRITE", f"{HOME}/a|")
        assert scene.events == {}


def test_xsa_414_a_creation_that_fails_half_way_leaves_nothing(scene: Scene) -> None:
    scene.home(1)
    scene.quota("nodes", 4)
    for path in ("a/b/c/d|", "a/b/c/d/e/f/g/h|"):
        assert scene.ask("1", "WRITE", f"{path}value") == scene.ask("1", "MKDIR", path) == "ENOSPC"
        assert scene.ask("1", "DIRECTORY", f"{HOME}|") == b""
        assert scene.used(1) == 1
    assert scene.ask("1", "WRITE", "a/b/c|") == OK
    assert scene.used(1) == 4


@pytest.mark.parametrize("in_transaction", [False, True])
def test_xsa_414_and_415_a_creation_whose_parent_has_no_room_for_the_name(scene: Scene, in_transaction: bool) -> None:
    """All below it were made by then."""
    scene.home(1)
    assert scene.ask("1", "WRITE", f"{HOME}|{'v' * 1990}") == OK
    tx = scene.start("1") if in_transaction else 0
    assert scene.ask("1", "WRITE", f"{'x' * 50}/b/c|value", tx) == "ENOSPC"
    if tx:
        assert scene.ask("1", "READ", f"{'x' * 50}/b|", tx) == "ENOENT"
        assert scene.ask("1", "TRANSACTION_END", "T|", tx) == "ENOMEM"
    assert scene.ask("1", "DIRECTORY", f"{HOME}|") == b""
    assert scene.used(1) == 1


def test_xsa_415_a_transaction_that_makes_too_many(scene: Scene) -> None:
    scene.home(1)
    scene.quota("nodes", 4)
    for path in ("a/b/c|", "a/b/c/d/e/f/g/h|"):
        tx = scene.start("1")
        assert scene.ask("1", "WRITE", f"{path}value", tx) == OK
        assert scene.ask("1", "TRANSACTION_END", "T|", tx) == "ENOSPC"
        assert scene.ask("1", "DIRECTORY", f"{HOME}|") == b""
        assert scene.used(1) == 1


def test_xsa_419_nodes_of_the_dead_are_nobodys(scene: Scene) -> None:
    """A guest that dies and returns cannot leave nodes behind, wherever they are and whatever is below them."""
    scene.ask("A", "MKDIR", "/shared|")
    scene.ask("A", "SET_PERMS", "/shared|b0|")
    before = scene.used(0)
    for _ in range(5):
        scene.home(1)
        for path in ("/shared/a", "/shared/b/c", f"{HOME}/d"):
            assert scene.ask("1", "WRITE", f"{path}|") == OK
        scene.ask("A", "WRITE", "/shared/b/c/of-domain-0|")
        scene.ask("2", "WRITE", "/shared/mine|")
        scene.destroy(1)
        assert scene.ask("A", "DIRECTORY", "/shared|") == b"mine\0"
        scene.create(1)
    assert scene.used(0) == before + 2, "/local and /local/domain"


@pytest.mark.parametrize("who", ["1", "A"])
def test_xsa_421_made_and_removed_in_one_transaction(scene: Scene, who: str) -> None:
    scene.home(1)
    for _ in range(3):
        tx = scene.start(who)
        assert scene.ask(who, "WRITE", f"{HOME}/kept|value", tx) == OK
        assert scene.ask(who, "WRITE", f"{HOME}/a/b|", tx) == OK
        assert scene.ask(who, "RM", f"{HOME}/a/b|", tx) == scene.ask(who, "RM", f"{HOME}/a|", tx) == OK
        assert scene.ask(who, "TRANSACTION_END", "T|", tx) == OK
        assert scene.ask(who, "DIRECTORY", f"{HOME}|") == b"kept\0"
        assert scene.used(1) == 2


def test_xsa_425_busy_domains_are_released_one_after_another(scene: Scene) -> None:
    scene.create(3)
    for _ in range(3):
        for who in ("1", "2", "3"):
            scene.home(int(who))
            for i in range(10):
                scene.ask(who, "WATCH", f"/local/domain/{who}|{i}|")
            for _ in range(5):
                scene.ask(who, "WRITE", "a/b|", scene.start(who))
        for who in ("2", "1", "3"):
            assert scene.ask("A", "RELEASE", f"{who}|") == OK
            assert scene.ask("A", "RELEASE", f"{who}|") == "ENOENT"
        assert scene.ask("A", "DIRECTORY", "/local/domain|") == b""
        for domid in (1, 2, 3):
            scene.destroy(domid)
            scene.create(domid)


@pytest.mark.parametrize("who", ["1", "A"])
def test_xsa_440_two_transactions_remove_the_same(scene: Scene, who: str) -> None:
    scene.home(1)
    for _ in range(2):
        for i in range(50):
            assert scene.ask("1", "WRITE", f"all/{i}|") == OK
        assert scene.used(1) == 52
        first, second = scene.start(who), scene.start(who)
        for tx in (first, second):
            assert scene.ask(who, "RM", f"{HOME}/all|", tx) == OK
        assert scene.ask(who, "TRANSACTION_END", "T|", first) == OK
        assert scene.ask(who, "TRANSACTION_END", "T|", second) == "EAGAIN"
        assert scene.used(1) == 1
