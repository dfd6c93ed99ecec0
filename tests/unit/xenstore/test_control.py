"""What CONTROL says of domains."""

from typing import Any

import pytest

from xenblk.xenstore.wire import XsMsgType


@pytest.mark.parametrize(("domid", "nr_counted"), [(0, 0), (5, 1)])
def test_regression_what_is_not_limited_is_not_counted(dom0: Any, guest: Any, domid: int, nr_counted: int) -> None:
    """Domain 0 may have as many watches and transactions as it likes."""
    for client in (dom0, guest):
        client.watch("@x", "t")
        client.start()
    report = dom0.ask(XsMsgType.CONTROL, b"quota\0%d\0" % domid).decode()
    assert f"watches         : {nr_counted:8}\n" in report
    assert f"transactions    : {nr_counted:8}\n" in report
