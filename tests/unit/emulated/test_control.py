"""Messages of the control socket, and the descriptors beside them."""

import os
import socket

from xenblk.emulated.control import close_fds, receive_message, send_message


def test_regression_received_descriptors_are_not_inherited() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        send_message(theirs, {"op": "enter"}, [ours.fileno(), theirs.fileno()])
        received = receive_message(ours)
    assert received is not None
    message, fds = received
    try:
        assert message == {"op": "enter"}
        assert [os.get_inheritable(fd) for fd in fds] == [False, False]
    finally:
        close_fds(fds)
