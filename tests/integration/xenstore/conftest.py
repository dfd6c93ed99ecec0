"""A xenstore server in a thread, and servers that break the rules."""

import contextlib
import queue
import selectors
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from xenblk.abi import DOM0, Domid
from xenblk.xenstore.server import XenstoreServer
from xenblk.xenstore.xenstored import Xenstored

DEADLINE_S = 30.0


class Daemon:
    """A server in a thread, domain 0 at `path`, domain 5 at `guest_path`."""

    def __init__(self, folder: Path) -> None:
        self.path, self.guest_path = str(folder / "socket"), str(folder / "guest")
        self.core, self._selector = Xenstored(), selectors.DefaultSelector()
        self.core.introduce(Domid(5))
        self.core.mkdir("/local/domain/0")
        self.server = XenstoreServer(self.core, self._selector)
        self.server.listen(self.path, DOM0)
        self.server.listen(self.guest_path, Domid(5))
        self._wake, self._woken = socket.socketpair()
        self._selector.register(self._woken, selectors.EVENT_READ, None)
        self._calls: queue.SimpleQueue[tuple[Callable[[Xenstored], Any] | None, Future[Any]]] = queue.SimpleQueue()
        self.failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            while True:
                for key, mask in self._selector.select():
                    if key.data is not None:
                        key.data(mask)
                    elif not self._do():
                        return
        except BaseException as e:
            self.failure = e
        finally:
            self.server.close()

    def _do(self) -> bool:
        self._woken.recv(1)
        function, answer = self._calls.get()
        if function is None:
            return False
        try:
            answer.set_result(function(self.core))
        except Exception as e:
            answer.set_exception(e)
        return True

    def call(self, function: Callable[[Xenstored], Any]) -> Any:
        """Do something with the store in the server's thread."""
        answer: Future[Any] = Future()
        self._calls.put((function, answer))
        self._wake.send(b"x")
        return answer.result(DEADLINE_S)

    def stop(self) -> None:
        """End the server as if it were killed, its sockets closed; once is enough."""
        if not self._thread.is_alive():
            return
        self._calls.put((None, Future()))
        self._wake.send(b"x")
        self._thread.join()
        for end in (self._wake, self._woken):
            end.close()
        self._selector.close()
        assert self.failure is None, self.failure


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    daemon = Daemon(tmp_path)
    yield daemon
    daemon.stop()


@pytest.fixture
def impostor(tmp_path: Path) -> Iterator[Callable[[Callable[[socket.socket], None]], str]]:
    """Makes a server of one connection, of which a function has the server's end; gives the path."""
    with contextlib.ExitStack() as stack:
        threads = []

        def make(behave: Callable[[socket.socket], None]) -> str:
            listener = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
            listener.bind(str(tmp_path / "impostor"))
            listener.listen(1)

            def run() -> None:
                connection, _ = listener.accept()
                # The client may leave at any moment; what it had not read by then comes back as a reset.
                with connection, contextlib.suppress(ConnectionError):
                    behave(connection)

            threads.append(threading.Thread(target=run))
            threads[-1].start()
            return str(tmp_path / "impostor")

        yield make
        for thread in threads:
            thread.join(DEADLINE_S)
            assert not thread.is_alive()
