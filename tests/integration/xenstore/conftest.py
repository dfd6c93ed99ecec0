"""A xenstore server in a thread, and servers that break the rules."""

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
from oracle.daemon import lacking
from oracle.scene import Scene
from oracle.worlds import RealWorld

from xenblk.abi import DOM0, Domid
from xenblk.loop import Loop
from xenblk.xenstore.server import XenstoreServer
from xenblk.xenstore.xenstored import Xenstored

DEADLINE_S = 30.0


class Daemon:
    """A server in a thread, domain 0 at `path`, domain 5 at `guest_path`."""

    def __init__(self, folder: Path) -> None:
        self.path, self.guest_path = str(folder / "socket"), str(folder / "guest")
        self.core, self._loop = Xenstored(clock=time.monotonic), Loop()
        self.core.introduce(Domid(5))
        self.core.mkdir("/local/domain/0")
        self.server = XenstoreServer(self.core, self._loop)
        self.server.listen(self.path, DOM0)
        self.server.listen(self.guest_path, Domid(5))
        self.failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._loop.run()
        except BaseException as e:
            self.failure = e
        finally:
            self.server.close()

    def call(self, function: Callable[[Xenstored], Any]) -> Any:
        """Do something with the store in the server's thread."""
        answer: Future[Any] = Future()

        def do() -> None:
            try:
                answer.set_result(function(self.core))
            except Exception as e:
                answer.set_exception(e)

        self._loop.call(do)
        return answer.result(DEADLINE_S)

    def stop(self) -> None:
        """End the server as if it were killed, its sockets closed; once is enough."""
        if not self._thread.is_alive():
            return
        self._loop.stop()
        self._thread.join()
        self._loop.close()
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


@pytest.fixture(params=["ours", "beside the real one"])
def scene(request: pytest.FixtureRequest) -> Iterator[Scene]:
    """Domains 1 and 2 of our store, and of the real one beside it; in the end there is nothing wrong with it."""
    if request.param == "ours":
        scene = Scene(None)
        yield scene
        scene.check()
        return
    if reason := lacking():
        pytest.skip(reason)
    with contextlib.closing(RealWorld()) as real:
        scene = Scene(real)
        yield scene
        scene.check()
