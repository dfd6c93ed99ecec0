"""A story that is told to our xenstored, and to the real one as well if it is there: both must answer the same."""

from typing import Final

from oracle.worlds import Messages, OurWorld, RealWorld

from xenblk.xenstore.wire import Packet, XsMsgType

OK: Final = b"OK\0"


class Scene:
    """A world with domains 1 and 2; each answer of ours is what the real daemon answers, if it is there."""

    def __init__(self, real: RealWorld | None) -> None:
        self.ours, self._real = OurWorld(), real
        self._done: list[str] = []
        self.events: dict[str, list[tuple[str, str]]] = {}
        for domid in (1, 2):
            self.create(domid)

    def create(self, domid: int) -> None:
        self.ours.create(str(domid))
        if self._real is not None:
            self._real.create(str(domid), {})
        # To the real one, a new domain is younger than all permissions only if something was written since.
        assert self.ask("A", "WRITE", "/tool/xenstored|") == OK
        assert self.ask("A", "INTRODUCE", f"{domid}|7|{domid}|") == OK

    def destroy(self, *domids: int) -> None:
        """They are all dead before anybody hears of it."""
        self._done.append(f"{domids} die")
        if self._real is not None:
            for domid in domids:
                self._real.daemon.set_state(domid, "d")
        for domid in domids:
            found = self.ours.destroy(str(domid))
            if self._real is not None:
                assert self._real.destroy(str(domid), found) == found
            self._note(found)

    def ask(self, who: str, kind: str, text: str, tx: int = 0) -> bytes | str:
        """The reply, an error as str; | stands for NUL."""
        self._done.append(f"{who} {kind} {text} in {tx}")
        request = Packet(XsMsgType[kind], 1, tx, text.replace("|", "\0").encode())
        found = self.ours.ask(who, request)
        if self._real is not None:
            real = self._real.ask(who, request, found)
            assert real == found, f"{self._story()}\n\nours: {found}\nthe real one: {real}"
        self._note(found)
        (reply,) = [packet for packet in found[who] if packet.type != XsMsgType.WATCH_EVENT]
        return reply.payload[:-1].decode() if reply.type == XsMsgType.ERROR else reply.payload

    def _story(self) -> str:
        return "\n".join(["This happened:", *self._done[-60:]])

    def _note(self, found: Messages) -> None:
        for name, packets in found.items():
            for packet in packets:
                if packet.type == XsMsgType.WATCH_EVENT:
                    path, token, _ = packet.payload.decode().split("\0")
                    self.events.setdefault(name, []).append((path, token))

    def home(self, domid: int, path: str = "") -> None:
        """A directory that is the domain's own."""
        path = path or f"/local/domain/{domid}"
        assert self.ask("A", "MKDIR", f"{path}|") == self.ask("A", "SET_PERMS", f"{path}|n{domid}|") == OK

    def start(self, who: str) -> int:
        answer = self.ask(who, "TRANSACTION_START", "|")
        assert isinstance(answer, bytes)
        return int(answer[:-1])

    def used(self, domid: int, what: str = "nodes") -> int:
        """How much of a quota a domain uses, by what `quota` says."""
        request = Packet(XsMsgType.CONTROL, 1, 0, f"quota\0{domid}\0".encode())
        worlds = [self.ours.ask("A", request)]
        if self._real is not None:
            worlds.append(self._real.ask("A", request, worlds[0]))
        (used,) = {_line(found["A"][0].payload, what) for found in worlds}
        return used

    def quota(self, name: str, value: int) -> None:
        """Set one."""
        assert self.ask("A", "CONTROL", f"quota|set|{name}|{value}|") == OK

    def check(self) -> None:
        """Nothing more came than what was expected, and the tree is whole."""
        names = [name for name in ("A", "B", "1", "2") if self.ours.connected(name)]
        assert self._real is None or self._real.fence(names) == {}
        assert self.ask("A", "CONTROL", "check|") == OK
        assert self.ours.core.tree.check() == []


def _line(answer: bytes, name: str) -> int:
    (value,) = [int(line.split(":")[1]) for line in answer[:-1].decode().splitlines() if line.startswith(name)]
    return value
