"""Xenstore on the rings of domains' xenstore pages: moves bytes between a page and a session, and nothing else.

No more is taken from a domain than what one message needs and its session will serve, so that a domain that does not
read its replies is held up by its own full ring.
"""

from collections.abc import Callable
from typing import Protocol

from xenblk.abi import Domid
from xenblk.errors import MessageTooLongError, PeerError
from xenblk.loop import READ, Loop
from xenblk.xenstore.page import (
    CONNECTED,
    ERROR_INDEX,
    ERROR_LENGTH,
    RECONNECT,
    SERVER_FEATURE_ERROR,
    SERVER_FEATURE_RECONNECTION,
    XenstorePage,
)
from xenblk.xenstore.xenstored import Xenstored


class Doorbell(Protocol):
    """An event channel, as far as a ring needs one."""

    def fileno(self) -> int:
        """Readable after an event, until `wait` took it."""

    def wait(self, timeout_s: float | None) -> bool:
        """Take an event."""

    def notify(self) -> None:
        """Send one."""

    def close(self) -> None:
        """Give it back."""


class RingConnection:
    """A domain's ring, served from somebody's loop. Owns page and doorbell.

    A domain that breaks the rules is ignored from then on, and finds the reason in its page; it stays introduced.
    """

    def __init__(
        self,
        core: Xenstored,
        loop: Loop,
        domid: Domid,
        page: XenstorePage,
        doorbell: Doorbell,
        changed: Callable[["RingConnection"], None],
    ) -> None:
        self.domid = domid
        self._loop = loop
        self._page = page
        self._doorbell = doorbell
        self._broken = False
        self._closed = False
        self._session = core.connect(domid, lambda: changed(self))
        page.server_features = SERVER_FEATURE_RECONNECTION | SERVER_FEATURE_ERROR
        loop.add(doorbell.fileno(), READ, self._ready)

    def _ready(self, _mask: int) -> None:
        self._doorbell.wait(0)
        if self._page.connection == RECONNECT and not self._broken:
            self.begin_anew()
        self.serve()

    def begin_anew(self) -> None:
        """Both rings empty, no watches, no transactions: on the domain's wish, or because it is introduced again."""
        self._broken = False
        self._session.reset()
        self._page.reset()
        self._page.error = 0
        self._page.connection = CONNECTED
        self._doorbell.notify()

    def serve(self) -> None:
        """Move what can be moved, in both directions."""
        if self._session.closed:
            self.close()
        if self._broken or self._closed:
            return
        try:
            while self._move():
                self._doorbell.notify()
        except MessageTooLongError:
            self._stop(ERROR_LENGTH)
        except PeerError:
            self._stop(ERROR_INDEX)

    def _move(self) -> bool:
        session, moved = self._session, False
        session.work()
        if (wanted_bytes := session.wanted_bytes) and (data := self._page.take(wanted_bytes)):
            session.feed(data)
            moved = True
        if (output := session.output) and (put_bytes := self._page.put(output)):
            session.consume(put_bytes)
            moved = True
        return moved

    def _stop(self, error: int) -> None:
        self._broken = True
        self._session.reset()
        self._page.error = error
        self._doorbell.notify()

    def close(self) -> None:
        """The domain is gone, or has another page."""
        if self._closed:
            return
        self._closed = True
        self._loop.remove(self._doorbell.fileno())
        self._session.close()
        self._page.close()
        self._doorbell.close()
