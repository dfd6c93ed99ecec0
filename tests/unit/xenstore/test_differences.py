"""What ours does where the real xenstored does otherwise, so that scripts which compare the two do not go there."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from oracle.differences import AVOIDED, Avoided

from xenblk.abi import Domid
from xenblk.xenstore.wire import XsMsgType
from xenblk.xenstore.xenstored import Xenstored

OK = b"OK\0"


@pytest.mark.parametrize("row", AVOIDED, ids=lambda row: row.test.rpartition("::")[2])
def test_what_is_avoided_has_a_test(row: Avoided) -> None:
    path, _, name = row.test.partition("::")
    assert f"\ndef {name}(" in (Path(__file__).parents[2] / path).read_text()


def test_permissions_of_names_that_mean_nothing(dom0: Any, guest: Any) -> None:
    for name in ("@", "@other", "@introduceDomain/1", "@releaseDomain/"):
        assert dom0.chmod(name, "n0") == guest.chmod(name, "n5") == "ENOENT"
        assert dom0.chmod(name, "x0") == "EINVAL"
    assert dom0.ls("/") == ["tool", "local"]


def test_how_long_a_path_may_be(core: Xenstored, dom0: Any, guest: Any) -> None:
    """A guest's is counted without the home that it lies in."""
    core.quotas.path_max = 12
    for path, length in (("/" + "x" * 3071, 3072), ("/" + "x" * 3072, 3073)):
        assert dom0.write(path) == (OK if length <= 3072 else "EINVAL")
    assert guest.write("x" * 12) == guest.write("/local/domain/5/" + "y" * 12) == OK
    assert guest.write("x" * 13) == guest.read("/" + "x" * 12) == "EINVAL"


def _dies_and_comes_back(core: Xenstored, domid: int) -> None:
    core.release(Domid(domid))
    core.introduce(Domid(domid))


def test_a_namesake_gets_nothing(core: Xenstored, dom0: Any, talk: Callable[[int], Any]) -> None:
    """Not though nothing was written since, and not of a transaction that was begun before."""
    dom0.write("/a", b"secret")
    tx = dom0.start()
    assert dom0.chmod("/a", "n0 r7", tx) == OK
    _dies_and_comes_back(core, 7)
    assert dom0.end(tx) == OK
    assert talk(7).read("/a") == "EACCES"
    assert dom0.chmod("/a", "n0 r7") == OK
    assert talk(7).read("/a") == b"secret"
    _dies_and_comes_back(core, 7)
    assert talk(7).read("/a") == "EACCES"
    assert dom0.perms("/a") == "n0 r7"


def test_a_namesake_of_one_that_was_never_introduced(core: Xenstored, dom0: Any, talk: Callable[[int], Any]) -> None:
    never_introduced = talk(9)
    dom0.write("/a", b"secret")
    assert dom0.chmod("/a", "n0 r9") == OK
    assert never_introduced.read("/a") == b"secret"
    _dies_and_comes_back(core, 9)
    assert talk(9).read("/a") == "EACCES"


def test_a_target_is_released_at_once(core: Xenstored, dom0: Any, guest: Any, talk: Callable[[int], Any]) -> None:
    """Whoever acted for it loses what it had of it, also to a namesake."""
    dom0.write("/a", b"secret")
    dom0.chmod("/a", "n7")
    dom0.write("/b", b"secret")
    dom0.chmod("/b", "n0 r7")
    assert dom0.ask(XsMsgType.SET_TARGET, b"5\x007\0") == OK
    assert guest.read("/a") == guest.read("/b") == b"secret"
    assert dom0.ask(XsMsgType.RELEASE, b"7\0") == OK
    assert dom0.ask(XsMsgType.IS_DOMAIN_INTRODUCED, b"7\0") == b"F\0"
    assert dom0.read("/a") == "ENOENT"
    core.introduce(Domid(7))
    dom0.chmod("/b", "n0 r7")
    assert talk(7).read("/b") == b"secret"
    assert guest.read("/b") == "EACCES"
