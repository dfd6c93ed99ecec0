"""A session without sockets: how much it gives at a time, and that who had to wait is not forgotten."""

from collections.abc import Callable
from typing import Any

from xenblk.abi import Domid
from xenblk.xenstore.session import OUTPUT_BYTES_MAX
from xenblk.xenstore.wire import PacketParser, XsMsgType
from xenblk.xenstore.xenstored import Xenstored


def test_regression_events_that_nobody_reads_are_not_all_gathered_for_each_try(
    core: Xenstored, dom0: Any, talk: Callable[[int], Any]
) -> None:
    """A server asks for the output after each event; it gets a part of it, all in the end, and in order."""
    watcher = talk(0)
    watcher.watch("/", "t" * 4000)
    for i in range(200):
        core.write(f"/{i}", b"")
        assert len(watcher.session.output) <= 4 * OUTPUT_BYTES_MAX
    parser, paths = PacketParser(), []
    while piece := watcher.session.output[:10_000]:
        watcher.session.consume(len(piece))
        paths += [packet.payload.split(b"\0")[0] for packet in parser.feed(piece)]
    assert paths == [b"/%d" % i for i in range(200)]


def test_regression_a_guest_that_waits_for_memory_goes_on_when_others_free_it() -> None:
    """Domain 0 may take it away or allow more; the guest itself cannot say anything before."""
    now_s, changes = [0.0], []
    core = Xenstored(clock=lambda: now_s[0])
    core.introduce(Domid(5))
    core.write("/mine", b"x" * 1000)
    core.set_perms("/mine", ["n5"])
    core.quotas.memory = 900
    session = core.connect(Domid(5), lambda: changes.append(now_s[0]))
    session.feed(XsMsgType.READ.to_bytes(4, "little") + bytes(8) + b"\6\0\0\0/mine\0")
    assert session.waiting
    assert not session.output
    core.write("/mine", b"less")
    assert core.due_s is not None
    now_s[0] = core.due_s
    core.tick()
    assert changes
    session.feed(b"")
    assert session.output.endswith(b"less")
