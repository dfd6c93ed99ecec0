"""The device handshake of xenbus: its states, and what each end does when the other end's state changes.

Both drivers keep their rules here, as data, and act on the answer elsewhere; this file does no I/O.

Two ends watch each other's `state` node. A normal life, time going down:

    backend        frontend
    Initialising   Initialising   the toolstack made the nodes
    InitWait                      the backend has its disk and offers its transport features
                   Initialised    the frontend wrote ring reference, event channel, protocol
    Connected                     the backend mapped the ring and published the disk's size
                   Connected      the frontend read it: requests flow
                   Closing        the frontend is done (or the backend went to Closing and it follows)
    Closing
                   Closed         no request is in flight any more
    Closed                        ring and every grant are unmapped

A state node that is missing or is not a number counts as Unknown. A frontend may skip states (several jump straight to
Connected), so each rule looks at both ends' states and never at the path that led there.

Source: io/blkif.h (state diagrams), Linux xen-blkback/xenbus.c `frontend_changed`, xen-blkfront.c `blkback_changed`.
"""

import enum
from typing import Final


class XenbusState(enum.IntEnum):
    """Values of a `state` node (io/xenbus.h)."""

    UNKNOWN = 0
    INITIALISING = 1
    INITWAIT = 2
    INITIALISED = 3
    CONNECTED = 4
    CLOSING = 5
    CLOSED = 6
    RECONFIGURING = 7
    RECONFIGURED = 8

    @property
    def label(self) -> str:
        """The name as it is written in prose: Initialising, InitWait, Connected."""
        return "InitWait" if self is XenbusState.INITWAIT else self.name.capitalize()


_VALUES: Final = {str(int(state)): state for state in XenbusState}


def parse_state(text: str | None) -> XenbusState:
    """The state that a node's text means; UNKNOWN for a node that is missing, garbled or out of range."""
    return _VALUES.get(text or "", XenbusState.UNKNOWN)


class BackendAction(enum.Enum):
    """What a backend does next."""

    IGNORE = "nothing"
    PREPARE = "go back to InitWait for a frontend that starts over"
    CONNECT = "read the frontend's keys, map its ring, publish the disk, go to Connected"
    CLOSING = "go to Closing"
    CLOSE = "disconnect and go to Closed; leave for good if `online` is not 1"
    UNREGISTER = "as CLOSE; leave for good, too, if the frontend is gone and not only garbled"
    REFUSE = "report a state that no frontend may be in, and go to Closing"


class FrontendAction(enum.Enum):
    """What a frontend does next."""

    IGNORE = "nothing"
    SETUP = "allocate ring and event channel, publish them, go to Initialised"
    CONNECT = "read the disk's properties, go to Connected"
    SETUP_AND_CONNECT = "both, for a backend that did not wait"
    RESIZE = "read `sectors` again"
    CLOSE = "fail what is in flight, give everything back, go to Closed"
    LOST = "as CLOSE: the backend's nodes are gone"


_S = XenbusState

# peer's state -> (what to do, exceptions by our own state)
_BACKEND: Final[dict[XenbusState, tuple[BackendAction, dict[XenbusState, BackendAction]]]] = {
    _S.UNKNOWN: (BackendAction.UNREGISTER, {}),
    _S.INITIALISING: (BackendAction.IGNORE, {_S.CLOSED: BackendAction.PREPARE}),
    _S.INITWAIT: (BackendAction.REFUSE, {}),
    _S.INITIALISED: (BackendAction.CONNECT, {_S.CONNECTED: BackendAction.IGNORE}),
    _S.CONNECTED: (BackendAction.CONNECT, {_S.CONNECTED: BackendAction.IGNORE}),
    _S.CLOSING: (BackendAction.CLOSING, {_S.CLOSING: BackendAction.IGNORE, _S.CLOSED: BackendAction.IGNORE}),
    _S.CLOSED: (BackendAction.CLOSE, {}),
    _S.RECONFIGURING: (BackendAction.REFUSE, {}),
    _S.RECONFIGURED: (BackendAction.REFUSE, {}),
}

_FRONTEND: Final[dict[XenbusState, tuple[FrontendAction, dict[XenbusState, FrontendAction]]]] = {
    _S.UNKNOWN: (FrontendAction.IGNORE, {_S.INITIALISED: FrontendAction.LOST, _S.CONNECTED: FrontendAction.LOST}),
    _S.INITIALISING: (FrontendAction.IGNORE, {}),
    _S.INITWAIT: (FrontendAction.IGNORE, {_S.INITIALISING: FrontendAction.SETUP}),
    _S.INITIALISED: (FrontendAction.IGNORE, {}),
    _S.CONNECTED: (
        FrontendAction.IGNORE,
        {
            _S.INITIALISING: FrontendAction.SETUP_AND_CONNECT,
            _S.INITIALISED: FrontendAction.CONNECT,
            _S.CONNECTED: FrontendAction.RESIZE,
        },
    ),
    _S.CLOSING: (FrontendAction.CLOSE, {_S.CLOSED: FrontendAction.IGNORE}),
    # A frontend that starts over finds the backend still Closed from the last time: it waits for InitWait.
    _S.CLOSED: (
        FrontendAction.CLOSE,
        {_S.CLOSED: FrontendAction.IGNORE, _S.INITIALISING: FrontendAction.IGNORE},
    ),
    _S.RECONFIGURING: (FrontendAction.IGNORE, {}),
    _S.RECONFIGURED: (FrontendAction.IGNORE, {}),
}


def backend_action(own: XenbusState, frontend: XenbusState) -> BackendAction:
    """What a backend in state `own` does on seeing its frontend in state `frontend`."""
    default, exceptions = _BACKEND[frontend]
    return exceptions.get(own, default)


def frontend_action(own: XenbusState, backend: XenbusState) -> FrontendAction:
    """What a frontend in state `own` does on seeing its backend in state `backend`."""
    default, exceptions = _FRONTEND[backend]
    return exceptions.get(own, default)
