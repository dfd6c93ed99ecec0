"""What a domain leaves behind that cannot go with it."""

from collections.abc import Callable
from typing import Any

import pytest

from xenblk.abi import Domid
from xenblk.xenstore.wire import XsMsgType
from xenblk.xenstore.xenstored import Xenstored


def test_regression_the_root_of_a_domain_that_died(core: Xenstored, dom0: Any) -> None:
    """The root stays, counts for domain 0, and is not the next domain's of that number."""
    dom0.write("/a", b"kept")
    dom0.chmod("/", "n5 r7")
    owned = len(core.domains.dom0.owned)
    core.release(Domid(5))
    assert dom0.perms("/") == "n0 r7"
    assert dom0.read("/a") == b"kept"
    assert core.tree.check() == []
    assert len(core.domains.dom0.owned) == owned + 1


@pytest.mark.parametrize("name", ["@introduceDomain", "@releaseDomain"])
def test_regression_a_domain_dies_whose_target_has_more(
    core: Xenstored, dom0: Any, talk: Callable[[int], Any], name: str
) -> None:
    """Domain 7 acts for domain 5; when 7 dies, what is 5's stays 5's."""
    dom0.chmod(name, "n5")
    core.domains.know(Domid(7)).target = core.domains.know(Domid(5))
    core.release(Domid(7))
    assert dom0.perms(name) == "n5"
    core.release(Domid(5))
    assert dom0.perms(name) == "n0"


def test_regression_a_special_name_that_returns_to_domain_0_makes_no_version(core: Xenstored, dom0: Any) -> None:
    """As in the C daemon; DIRECTORY_PART shows versions of nodes to everybody."""
    dom0.mkdir("/a")
    dom0.chmod("@releaseDomain", "r5")
    versions = []
    for _ in range(2):
        dom0.write("/a")
        versions.append(int(dom0.ask(XsMsgType.DIRECTORY_PART, b"/a\x000\0").split(b"\0")[0]))
        core.release(Domid(5))
        core.introduce(Domid(5))
    assert versions[1] == versions[0] + 1
