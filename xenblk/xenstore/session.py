"""One client's life: bytes in, bytes out. No sockets; whoever feeds it also takes `output` away.

Each request gets exactly one reply, in order. Events of watches go out in between; the event of a session's own write
comes before the reply to it, as from the C daemon.
"""

import collections
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from xenblk.errors import XenstoreError
from xenblk.xenstore.store import SPECIAL, Caller, View, canonical_path, parse_perm, refuse
from xenblk.xenstore.transaction import Transaction
from xenblk.xenstore.watch import Watch
from xenblk.xenstore.wire import PAYLOAD_BYTES_MAX, Packet, PacketParser, XsMsgType

if TYPE_CHECKING:
    from xenblk.xenstore.xenstored import Xenstored

OUTPUT_BYTES_MAX: Final = 1 << 16
"""Above this much output that nobody took, no more requests are read from the client."""

UNREAD_BYTES_MAX: Final = 1 << 23
"""Events come whether or not the client reads; one that lets so much pile up is disconnected. It is twice what one
piece of input can be answered with, so that requests alone never lead to it."""


class Session:
    """A connection of domain `caller.domid`. `feed` raises PeerError when the stream is beyond repair."""

    def __init__(self, core: "Xenstored", caller: Caller, on_output: Callable[[], None]) -> None:
        self.caller = caller
        self.closed = False
        self._core = core
        self._on_output = on_output
        self._parser = PacketParser()
        self._output: collections.deque[bytes] = collections.deque()
        self._sent_bytes = 0
        self._queued_events: set[bytes] = set()
        self._output_bytes = 0
        self._transactions: dict[int, Transaction] = {}
        self._last_transaction = 0
        self._first_event: Watch | None = None

    # Output

    @property
    def congested(self) -> bool:
        """Whether the client should read before it asks more."""
        return self._output_bytes > OUTPUT_BYTES_MAX

    @property
    def output(self) -> bytes:
        """The next bytes to send, empty when there are none."""
        return self._output[0][self._sent_bytes :] if self._output else b""

    def consume(self, nr_bytes: int) -> None:
        """Say how much of `output` was sent."""
        self._sent_bytes += nr_bytes
        self._output_bytes -= nr_bytes
        if self._sent_bytes == len(self._output[0]):
            self._queued_events.discard(self._output.popleft())
            self._sent_bytes = 0

    def _send(self, packet: Packet) -> None:
        if self.closed:  # by the events of the very request that this answers
            return
        data = packet.encode()
        self._output.append(data)
        self._output_bytes += len(data)
        self._on_output()

    def send_event(self, path: str, token: bytes) -> None:
        """Queue a watch event, unless it is too long to send, or the same one waits and says as much.

        Each @introduceDomain or @releaseDomain stands for another domain, so of those none is left out. A client with
        too much unread is disconnected.
        """
        payload = path.encode() + b"\0" + token + b"\0"
        if self.closed or len(payload) > PAYLOAD_BYTES_MAX:
            return
        packet = Packet(XsMsgType.WATCH_EVENT, 0, 0, payload)
        data = packet.encode()
        if data in self._queued_events and not path.startswith("@"):
            return
        if self._output_bytes > UNREAD_BYTES_MAX:
            self.close()
            return
        self._queued_events.add(data)
        self._send(packet)

    # Input

    def feed(self, data: bytes) -> None:
        """Take bytes from the client and answer the requests that they complete."""
        for packet in self._parser.feed(data):
            if self.closed:
                return
            try:
                payload = self._serve(packet)
                if len(payload) > PAYLOAD_BYTES_MAX:
                    raise refuse("E2BIG", "a reply")
                reply = Packet(packet.type, packet.req_id, packet.tx_id, payload)
            except XenstoreError as e:
                reply = Packet(XsMsgType.ERROR, packet.req_id, packet.tx_id, e.name.encode() + b"\0")
            self._send(reply)
            self._send_first_event()

    def _send_first_event(self) -> None:
        """A new watch's first event follows the reply, whether there is such a node or not."""
        watch, self._first_event = self._first_event, None
        if watch is not None:
            watch.fire(watch.path)

    def close(self) -> None:
        """Forget watches and transactions; nothing is sent any more."""
        if not self.closed:
            self.closed = True
            self._transactions.clear()
            self._output.clear()
            self._queued_events.clear()
            self._core.disconnected(self)
            self._on_output()

    def _serve(self, packet: Packet) -> bytes:
        handler = _HANDLERS.get(packet.type)
        if packet.type in _PRIVILEGED and not self.caller.privileged:
            raise refuse("EACCES", f"operation {packet.type}")
        if handler is None:
            raise refuse("ENOSYS", f"operation {packet.type}")
        return handler(self, self._view(packet), packet)

    def _view(self, packet: Packet) -> View:
        if packet.tx_id == 0 or packet.type in _OUTSIDE_TRANSACTIONS:
            return self._core
        transaction = self._transactions.get(packet.tx_id)
        if transaction is None:
            raise refuse("ENOENT", f"transaction {packet.tx_id}")
        return transaction

    def _path(self, text: bytes) -> str:
        return canonical_path(_text(text), self.caller.domid)

    def _perms_path(self, text: bytes) -> str:
        name = _text(text)
        return name if name in SPECIAL else self._path(text)

    # Operations

    def _directory(self, view: View, packet: Packet) -> bytes:
        node = self._core.operations.read(view, self.caller, self._path(_single(packet)))
        return b"".join(name.encode() + b"\0" for name in node.children)

    def _read(self, view: View, packet: Packet) -> bytes:
        return self._core.operations.read(view, self.caller, self._path(_single(packet))).value

    def _get_perms(self, view: View, packet: Packet) -> bytes:
        node = self._core.operations.read(view, self.caller, self._perms_path(_single(packet)))
        return b"".join(str(perm).encode() + b"\0" for perm in node.perms)

    def _write(self, view: View, packet: Packet) -> bytes:
        path, separator, value = packet.payload.partition(b"\0")
        if not separator:
            raise refuse("EINVAL", "write")
        self._core.operations.write(view, self.caller, self._path(path), value)
        return b"OK\0"

    def _mkdir(self, view: View, packet: Packet) -> bytes:
        self._core.operations.mkdir(view, self.caller, self._path(_single(packet)))
        return b"OK\0"

    def _rm(self, view: View, packet: Packet) -> bytes:
        self._core.operations.rm(view, self.caller, self._path(_single(packet)))
        return b"OK\0"

    def _set_perms(self, view: View, packet: Packet) -> bytes:
        path, *texts = _strings(packet)
        if not texts:
            raise refuse("EINVAL", "set_perms")
        perms = tuple(parse_perm(_text(text), self._core.birth_of) for text in texts)
        self._core.operations.set_perms(view, self.caller, self._perms_path(path), perms)
        return b"OK\0"

    def _watched_path(self, text: bytes) -> tuple[str, int]:
        path = _text(text)
        if path.startswith("@"):
            # Any such name may be watched; where its characters are those of a path, it need not mean anything.
            canonical_path(f"/{path}", self.caller.domid)
            return path, 0
        canonical = self._path(text)
        return canonical, 0 if path.startswith("/") else len(canonical) - len(path)

    def _watch(self, _view: View, packet: Packet) -> bytes:
        path, token = _exactly(packet, 2)
        canonical, prefix_chars = self._watched_path(path)
        watch = Watch(self, canonical, token, prefix_chars)
        self._core.watches.add(watch)
        self._first_event = watch
        return b"OK\0"

    def _unwatch(self, _view: View, packet: Packet) -> bytes:
        path, token = _exactly(packet, 2)
        self._core.watches.remove(self, self._watched_path(path)[0], token)
        return b"OK\0"

    def _reset_watches(self, _view: View, _packet: Packet) -> bytes:
        self._core.watches.remove_all(self)
        self._transactions.clear()
        return b"OK\0"

    def _transaction_start(self, _view: View, packet: Packet) -> bytes:
        if packet.tx_id:
            raise refuse("EBUSY", "a transaction inside a transaction")
        self._last_transaction = self._last_transaction % 0xFFFFFFFF + 1
        self._transactions[self._last_transaction] = Transaction(self._core)
        return str(self._last_transaction).encode() + b"\0"

    def _transaction_end(self, _view: View, packet: Packet) -> bytes:
        if packet.payload not in (b"T\0", b"F\0"):
            raise refuse("EINVAL", "transaction_end")
        transaction = self._transactions.pop(packet.tx_id, None)
        if transaction is None:
            raise refuse("ENOENT", f"transaction {packet.tx_id}")
        if packet.payload == b"T\0" and not transaction.commit():
            raise refuse("EAGAIN", "transaction_end")
        return b"OK\0"

    def _get_domain_path(self, _view: View, packet: Packet) -> bytes:
        return f"/local/domain/{_number(_single(packet))}".encode() + b"\0"

    def _is_domain_introduced(self, _view: View, packet: Packet) -> bytes:
        return b"T\0" if self._core.is_introduced(_number(_single(packet))) else b"F\0"


def _text(data: bytes) -> str:
    try:
        return data.decode("ascii")
    except UnicodeDecodeError:
        raise refuse("EINVAL", f"text {data[:40]!r}") from None


def _number(data: bytes) -> int:
    text = _text(data)
    return int(text) if text.isdecimal() else 0


def _strings(packet: Packet) -> list[bytes]:
    if not packet.payload.endswith(b"\0"):
        raise refuse("EINVAL", "an argument without its end")
    return packet.payload[:-1].split(b"\0")


def _exactly(packet: Packet, count: int) -> list[bytes]:
    strings = _strings(packet)
    if len(strings) != count:
        raise refuse("EINVAL", f"{len(strings)} arguments")
    return strings


def _single(packet: Packet) -> bytes:
    return _exactly(packet, 1)[0]


_Handler = Callable[[Session, View, Packet], bytes]

_HANDLERS: Final[dict[int, _Handler]] = {
    XsMsgType.DIRECTORY: Session._directory,
    XsMsgType.READ: Session._read,
    XsMsgType.GET_PERMS: Session._get_perms,
    XsMsgType.WATCH: Session._watch,
    XsMsgType.UNWATCH: Session._unwatch,
    XsMsgType.TRANSACTION_START: Session._transaction_start,
    XsMsgType.TRANSACTION_END: Session._transaction_end,
    XsMsgType.GET_DOMAIN_PATH: Session._get_domain_path,
    XsMsgType.WRITE: Session._write,
    XsMsgType.MKDIR: Session._mkdir,
    XsMsgType.RM: Session._rm,
    XsMsgType.SET_PERMS: Session._set_perms,
    XsMsgType.IS_DOMAIN_INTRODUCED: Session._is_domain_introduced,
    XsMsgType.RESET_WATCHES: Session._reset_watches,
}

_PRIVILEGED: Final = (
    XsMsgType.CONTROL,
    XsMsgType.INTRODUCE,
    XsMsgType.RELEASE,
    XsMsgType.IS_DOMAIN_INTRODUCED,
    XsMsgType.RESUME,
    XsMsgType.SET_TARGET,
)

_OUTSIDE_TRANSACTIONS: Final = (XsMsgType.WATCH, XsMsgType.UNWATCH)
