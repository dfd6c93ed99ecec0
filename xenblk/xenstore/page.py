"""A xenstore page from either side: bytes in, bytes out, over memory that both share."""

from typing import Final

from xenblk._native import ffi, lib
from xenblk.abi import PAGE_SIZE
from xenblk.errors import PeerError

XENSTORE_GREF: Final = 1
"""The grant by which a domain gives its page to xenstored (GNTTAB_RESERVED_XENSTORE)."""

SERVER_FEATURE_RECONNECTION: Final = 1
SERVER_FEATURE_ERROR: Final = 2

CONNECTED: Final = 0
RECONNECT: Final = 1

ERROR_COMMUNICATION: Final = 1
ERROR_INDEX: Final = 2
ERROR_LENGTH: Final = 3


class XenstorePage:
    """One side of a page; its layout is in page.h. Keeps the memory alive, but not mapped."""

    def __init__(self, page: memoryview, *, server: bool) -> None:
        assert page.nbytes == PAGE_SIZE
        # The address is taken once, and the view keeps the memory; see _Ring in ring/sring.py.
        self._view = page[:]
        with ffi.from_buffer(page, require_writable=True) as buffer:
            self._page = ffi.cast("uint8_t *", buffer)
        self._server = server
        self._buffer = ffi.new("uint8_t[]", lib.XB_XS_RING_BYTES)

    def take(self, nr_bytes: int) -> bytes:
        """What the other side put, at most so much; PeerError if its index is out of bounds."""
        taken = lib.xb_xs_take(self._page, self._server, self._buffer, min(nr_bytes, lib.XB_XS_RING_BYTES))
        if taken < 0:
            raise PeerError(f"a xenstore ring holds at most {lib.XB_XS_RING_BYTES} bytes, the indices claim more")
        return bytes(ffi.buffer(self._buffer, taken))

    def put(self, data: bytes) -> int:
        """Give the other side as much as there is room for; how much. PeerError as for `take`."""
        put = lib.xb_xs_put(self._page, self._server, data, len(data))
        if put < 0:
            raise PeerError(f"a xenstore ring holds at most {lib.XB_XS_RING_BYTES} bytes, the indices claim more")
        return int(put)

    def reset(self) -> None:
        """Empty both rings: the server's, while the domain does not use them."""
        lib.xb_xs_reset(self._page)

    @property
    def connection(self) -> int:
        """CONNECTED, or RECONNECT while the domain waits for the server to begin anew."""
        return int(lib.xb_xs_load(self._page, lib.XB_XS_CONNECTION))

    @connection.setter
    def connection(self, state: int) -> None:
        lib.xb_xs_store(self._page, lib.XB_XS_CONNECTION, state)

    @property
    def error(self) -> int:
        """Why the server stopped, 0 while it did not."""
        return int(lib.xb_xs_load(self._page, lib.XB_XS_ERROR))

    @error.setter
    def error(self, code: int) -> None:
        lib.xb_xs_store(self._page, lib.XB_XS_ERROR, code)

    @property
    def server_features(self) -> int:
        """What the server can do."""
        return int(lib.xb_xs_load(self._page, lib.XB_XS_SERVER_FEATURES))

    @server_features.setter
    def server_features(self, features: int) -> None:
        lib.xb_xs_store(self._page, lib.XB_XS_SERVER_FEATURES, features)

    def close(self) -> None:
        """Let go of the memory."""
        self._view.release()
