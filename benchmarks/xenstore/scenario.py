"""A store of many domains, as a toolstack and frontends fill it, and what is timed in it.

Each domain has 20 nodes, counting folders, and a watch on its disk's state, as a backend keeps one. The client is the
plainest Python, the same for both daemons: its own time is part of each figure but the one of xenstore-ls.
"""

import contextlib
import socket
import time
from collections.abc import Callable, Iterator
from statistics import median
from typing import Final

import click
from servers import run_tool

from xenblk.xenstore.wire import Packet, PacketParser, XsMsgType, encode

ANSWER_S: Final = 60.0
RECEIVE_BYTES: Final = 1 << 16
NR_WATCHERS: Final = 8
NODES_PER_DOMAIN: Final = 20
DOMAINS: Final = "/local/domain"
STATE: Final = "device/vbd/51712/state"
TARGET: Final = "memory/target"
NODES: Final = {
    "name": "guest",
    "domid": "1",
    TARGET: "1048576",
    "control/shutdown": "",
    "console/ring-ref": "1044476",
    "console/port": "2",
    "device/vbd/51712/backend": "/local/domain/0/backend/vbd/1/51712",
    "device/vbd/51712/backend-id": "0",
    "device/vbd/51712/virtual-device": "51712",
    "device/vbd/51712/ring-ref": "8",
    "device/vbd/51712/event-channel": "9",
    "device/vbd/51712/protocol": "x86_64-abi",
    STATE: "4",
}


class Client:
    """A connection that asks one thing at a time. ClickException when it is refused or the daemon is gone."""

    def __init__(self, path: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.connect(path)
        # Not before: a connect that has a timeout is refused, instead of waiting, where the daemon's backlog is full.
        self._socket.settimeout(ANSWER_S)
        self._parser = PacketParser()

    def send(self, kind: XsMsgType, *strings: str, value: str = "", tx_id: int = 0) -> None:
        """Send a request: strings, which end in NUL, and a value, which does not."""
        payload = "".join(f"{string}\0" for string in strings) + value
        self._socket.sendall(encode(kind, 1, tx_id, payload.encode()))

    def receive(self, kind: XsMsgType) -> bytes:
        """The payload of the next message, which must be of that kind."""
        while (packet := self._parser.next()) is None:
            if not (data := self._socket.recv(RECEIVE_BYTES)):
                raise click.ClickException("a xenstored closed its connection")
            self._parser.feed(data)
        if packet.type != kind:
            raise click.ClickException(f"instead of {kind.name} a xenstored answered {Packet(*packet)}")
        return packet.payload

    def ask(self, kind: XsMsgType, *strings: str, value: str = "", tx_id: int = 0) -> bytes:
        """The answer to a request."""
        self.send(kind, *strings, value=value, tx_id=tx_id)
        return self.receive(kind)

    def close(self) -> None:
        """Disconnect."""
        self._socket.close()


def fill(client: Client, nr_domains: int) -> None:
    """Write every node of every domain."""
    for domain in range(1, nr_domains + 1):
        for node, value in NODES.items():
            client.ask(XsMsgType.WRITE, f"{DOMAINS}/{domain}/{node}", value=value)


def walk(client: Client, path: str = DOMAINS) -> int:
    """List and read a node and all below it; how many they are."""
    names = client.ask(XsMsgType.DIRECTORY, path).decode().split("\0")[:-1]
    client.ask(XsMsgType.READ, path)
    return 1 + sum(walk(client, f"{path}/{name}") for name in names)


def xenstore_ls(socket_path: str) -> int:
    """The same by Xen's own program; how many nodes it lists."""
    return run_tool(socket_path, "xenstore-ls", "-f", DOMAINS).count(b"\n")


def transaction(client: Client, domain: int) -> None:
    """Write one node in a transaction."""
    tx_id = int(client.ask(XsMsgType.TRANSACTION_START, "")[:-1])
    client.ask(XsMsgType.WRITE, f"{DOMAINS}/{domain}/{TARGET}", value="524288", tx_id=tx_id)
    client.ask(XsMsgType.TRANSACTION_END, "T", tx_id=tx_id)


def event_s(client: Client, watcher: Client, domain: int) -> float:
    """How long it takes from before a write until the watcher has its event."""
    begin_s = time.perf_counter()
    client.send(XsMsgType.WRITE, f"{DOMAINS}/{domain}/{STATE}", value="4")
    watcher.receive(XsMsgType.WATCH_EVENT)
    taken_s = time.perf_counter() - begin_s
    client.receive(XsMsgType.WRITE)
    return taken_s


def watch_all(watchers: list[Client], nr_domains: int) -> None:
    """One watch per domain, dealt out to the watchers."""
    for domain in range(1, nr_domains + 1):
        watcher = watchers[domain % len(watchers)]
        watcher.ask(XsMsgType.WATCH, f"{DOMAINS}/{domain}/{STATE}", str(domain))
        watcher.receive(XsMsgType.WATCH_EVENT)


def timed(function: Callable[[], object]) -> float:
    """How long a call takes, in seconds."""
    begin_s = time.perf_counter()
    function()
    return time.perf_counter() - begin_s


def checked(nr_found: int, nr_due: int) -> None:
    """A walk that misses nodes is no measure."""
    if nr_found != nr_due:
        raise click.ClickException(f"the store has {nr_due} nodes, {nr_found} were found")


def run(socket_path: str, nr_domains: int, nr_operations: int) -> dict[str, float]:
    """Times in seconds, by what was measured, of a daemon whose store was empty."""
    nr_nodes = nr_domains * NODES_PER_DOMAIN
    domains = [1 + i * 7919 % nr_domains for i in range(nr_operations)]
    with contextlib.ExitStack() as stack:
        client, *watchers = _connect(stack, socket_path)
        found = {"fill": timed(lambda: fill(client, nr_domains))}
        watch_all(watchers, nr_domains)
        found["walk"] = timed(lambda: checked(walk(client), nr_nodes + 1))
        found["xenstore_ls"] = timed(lambda: checked(xenstore_ls(socket_path), nr_nodes))
        found["transaction"] = median(timed(lambda d=d: transaction(client, d)) for d in domains)
        found["event"] = median(event_s(client, watchers[d % NR_WATCHERS], d) for d in domains)
    return found


def _connect(stack: contextlib.ExitStack, socket_path: str) -> Iterator[Client]:
    for _ in range(1 + NR_WATCHERS):
        yield stack.enter_context(contextlib.closing(Client(socket_path)))
