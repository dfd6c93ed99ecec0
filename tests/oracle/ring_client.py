"""A guest's end of a xenstore page, in the plainest Python: for tests against the real daemon and ours.

request bytes 0..1023 | reply bytes 1024..2047 | u32 at 2048: req_cons req_prod rsp_cons rsp_prod
server_features connection error                                    (io/xs_wire.h)
"""

import mmap
import time
from collections.abc import Callable

RING_BYTES = 1024
REQ_CONS, REQ_PROD, RSP_CONS, RSP_PROD, SERVER_FEATURES, CONNECTION, ERROR = range(512, 519)
DEADLINE_S = 30.0


class RingClient:
    """Bytes to and from a xenstored; `notify` is the event channel's send."""

    def __init__(self, page: mmap.mmap, notify: Callable[[], None]) -> None:
        self.page = page
        # 32-bit stores through a cast view are whole; struct.pack_into would let the other side see zeroes.
        self.words = memoryview(page).cast("I")
        self.notify = notify

    def send(self, data: bytes) -> None:
        """Put all of it, in as many pieces as the ring wants; TimeoutError if the server takes nothing."""
        end_s = time.monotonic() + DEADLINE_S
        while data:
            produced = self.words[REQ_PROD]
            room = RING_BYTES - (produced - self.words[REQ_CONS]) % (1 << 32)
            piece = data[: min(room, RING_BYTES - produced % RING_BYTES)]
            if piece:
                at = produced % RING_BYTES
                self.page[at : at + len(piece)] = piece
                self.words[REQ_PROD] = (produced + len(piece)) % (1 << 32)
                self.notify()
                data = data[len(piece) :]
            else:
                self._wait(end_s)

    def receive(self, nr_bytes: int, deadline_s: float = DEADLINE_S) -> bytes:
        """Exactly so many bytes; TimeoutError if they do not come."""
        end_s, got = time.monotonic() + deadline_s, b""
        while len(got) < nr_bytes:
            piece = self.take(nr_bytes - len(got))
            if not piece:
                self._wait(end_s)
            got += piece
        return got

    def take(self, nr_bytes: int) -> bytes:
        """What is there now, at most so much."""
        consumed = self.words[RSP_CONS]
        ready = (self.words[RSP_PROD] - consumed) % (1 << 32)
        at = consumed % RING_BYTES
        piece = self.page[RING_BYTES + at : RING_BYTES + at + min(nr_bytes, ready, RING_BYTES - at)]
        if piece:
            self.words[RSP_CONS] = (consumed + len(piece)) % (1 << 32)
            self.notify()
        return piece

    def _wait(self, end_s: float) -> None:
        if time.monotonic() > end_s:
            raise TimeoutError(f"nothing came; error {self.words[ERROR]}")
        time.sleep(0)

    def close(self) -> None:
        """Let go of the page."""
        self.words.release()
        self.page.close()
