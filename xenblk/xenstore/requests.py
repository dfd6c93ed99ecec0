"""What each request asks, and in which order its faults are looked for: arguments in, the reply's payload out.

Order of checks: known type, privilege, transaction (these in session.py), then arguments as here. Arguments are counted
by their NULs, as the C daemon counts them: where an operation has several, bytes after the last NUL do not matter.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from xenblk.abi import DOM0, Domid
from xenblk.xenstore import control
from xenblk.xenstore.domain import Domain
from xenblk.xenstore.store import SPECIAL, View, absolute, canonical_path, parse_number, parse_perm, refuse
from xenblk.xenstore.transaction import Transaction
from xenblk.xenstore.watch import Watch
from xenblk.xenstore.wire import PAYLOAD_BYTES_MAX, Packet, XsMsgType

if TYPE_CHECKING:
    from xenblk.xenstore.session import Session

WATCH_NAME_CHARS_MAX: Final = 2048
"""Of a name with an @ in front, which may be watched whatever it is."""

_OK: Final = b"OK\0"


# Arguments


def _single(packet: Packet) -> bytes:
    """The one argument: exactly one NUL, at the end."""
    text, end, rest = packet.payload.partition(b"\0")
    if rest or not end:
        raise refuse("EINVAL", "one argument with its end")
    return text


def _strings(packet: Packet, at_least: int, at_most: int) -> list[bytes]:
    strings = packet.payload.split(b"\0")[:-1]
    if not at_least <= len(strings) <= at_most:
        raise refuse("EINVAL", f"{len(strings)} arguments")
    return strings


def _path(session: "Session", text: bytes) -> str:
    return canonical_path(text, session.domid, session.quotas.path_max)


def _only_path(session: "Session", packet: Packet) -> str:
    return canonical_path(_single(packet), session.domid, session.quotas.path_max)


# Nodes


def _read(session: "Session", view: View, packet: Packet) -> bytes:
    return session.operations.read(view, session.domain, _only_path(session, packet)).value


def _directory(session: "Session", view: View, packet: Packet) -> bytes:
    return session.operations.read(view, session.domain, _only_path(session, packet)).children


def _directory_part(session: "Session", view: View, packet: Packet) -> bytes:
    """The node's generation, then names from an offset into their list, as many as fit; an empty one ends the list."""
    text, offset_text = _strings(packet, 2, 2)
    node = session.operations.read(view, session.domain, _path(session, text))
    generation, offset = b"%d\0" % node.generation, parse_number(offset_text)
    room = PAYLOAD_BYTES_MAX - len(generation) - 1
    rest = node.children[offset:]
    if len(rest) <= room:
        return generation + rest + b"\0"
    return generation + rest[: rest.rfind(b"\0", 0, room) + 1]


def _get_perms(session: "Session", view: View, packet: Packet) -> bytes:
    text = _single(packet)
    if text.decode("latin-1") in SPECIAL:
        perms = session.core.tree.special_perms(session.domain, text.decode("latin-1"))
    else:
        perms = session.operations.read(view, session.domain, _path(session, text)).perms
    return b"".join(str(perm).encode() + b"\0" for perm in perms)


def _write(session: "Session", view: View, packet: Packet) -> bytes:
    text, separator, value = packet.payload.partition(b"\0")
    if not separator:
        raise refuse("EINVAL", "write")
    session.operations.write(view, session.domain, _path(session, text), value)
    return _OK


def _mkdir(session: "Session", view: View, packet: Packet) -> bytes:
    session.operations.mkdir(view, session.domain, _only_path(session, packet))
    return _OK


def _rm(session: "Session", view: View, packet: Packet) -> bytes:
    session.operations.rm(view, session.domain, _only_path(session, packet))
    return _OK


def _set_perms(session: "Session", view: View, packet: Packet) -> bytes:
    core, domain = session.core, session.domain
    name, *texts = _strings(packet, 2, PAYLOAD_BYTES_MAX)
    if not domain.privileged and len(texts) > core.quotas.permissions:
        raise refuse("ENOSPC", f"{len(texts)} permissions")
    perms = tuple(parse_perm(text.decode("latin-1"), core.domains.birth_of) for text in texts)
    if perms[0].birth == 0:
        raise refuse("ENOENT", f"the owner {perms[0].domid}")
    text = name.decode("latin-1")
    if text.startswith("@"):
        core.tree.set_special_perms(domain, text, perms)
    else:
        session.operations.set_perms(view, domain, _path(session, name), perms)
    return _OK


# Watches


def _watched_path(session: "Session", text: str) -> tuple[str, int]:
    path = absolute(text, session.domain.domid)
    return path, 0 if text.startswith(("/", "@")) else len(path) - len(text)


def _watch(session: "Session", _view: View, packet: Packet) -> bytes:
    name, token = _strings(packet, 2, 2)
    text = name.decode("latin-1")
    path, prefix_chars = _watched_path(session, text)
    if not text.startswith("@"):
        _path(session, name)
    elif len(text) > WATCH_NAME_CHARS_MAX:
        raise refuse("EINVAL", f"a name of {len(text)} characters")
    core, domain = session.core, session.domain
    if core.watches.has(session, path, token):
        raise refuse("EEXIST", f"watch {path}")
    if not domain.privileged and domain.nr_watches > core.quotas.watches:
        raise refuse("E2BIG", f"{domain.nr_watches} watches")
    watch = Watch(session, path, token, prefix_chars)
    if not domain.privileged and domain.memory_bytes + watch.memory_bytes >= core.quotas.memory:
        raise refuse("ENOMEM", f"{domain.memory_bytes} bytes of domain {domain.domid}")
    core.watches.add(watch)
    # The first event comes whether there is such a node or not.
    session.after_reply = lambda: watch.fire(path)
    return _OK


def _unwatch(session: "Session", _view: View, packet: Packet) -> bytes:
    name, token = _strings(packet, 2, 2)
    session.core.watches.remove(session, _watched_path(session, name.decode("latin-1"))[0], token)
    return _OK


def _reset_watches(session: "Session", _view: View, _packet: Packet) -> bytes:
    session.core.watches.remove_all(session)
    session.drop_transactions()
    return _OK


# Transactions


def _transaction_start(session: "Session", _view: View, packet: Packet) -> bytes:
    core, domain = session.core, session.domain
    if packet.tx_id:
        raise refuse("EBUSY", "a transaction inside a transaction")
    if not domain.privileged and domain.nr_transactions > core.quotas.transactions:
        raise refuse("ENOSPC", f"{domain.nr_transactions} transactions")
    tx_id = session.last_transaction % 0xFFFFFFFF + 1
    while tx_id in session.transactions:
        tx_id = tx_id % 0xFFFFFFFF + 1
    session.last_transaction = tx_id
    session.transactions[tx_id] = Transaction(core.tree, domain)
    domain.nr_transactions += 1
    core.nr_transactions += 1
    return b"%d\0" % tx_id


def _transaction_end(session: "Session", _view: View, packet: Packet) -> bytes:
    if packet.payload not in (b"T\0", b"F\0"):
        raise refuse("EINVAL", "transaction_end")
    transaction = session.transactions.pop(packet.tx_id, None)
    if transaction is None:
        raise refuse("ENOENT", f"transaction {packet.tx_id}")
    try:
        if packet.payload == b"T\0" and not transaction.commit():
            raise refuse("EAGAIN", "transaction_end")
    finally:
        session.forget_transaction(transaction)
    return _OK


# Domains


def _get_domain_path(_session: "Session", _view: View, packet: Packet) -> bytes:
    return b"/local/domain/%d\0" % parse_number(_single(packet))


def _is_domain_introduced(session: "Session", _view: View, packet: Packet) -> bytes:
    return b"T\0" if session.core.is_introduced(parse_number(_single(packet))) else b"F\0"


def _introduce(session: "Session", _view: View, packet: Packet) -> bytes:
    """Further strings do not matter, nor does the frame: a domain's ring is its grant 1."""
    domid, _gfn, port = _strings(packet, 3, PAYLOAD_BYTES_MAX)[:3]
    if parse_number(port) == 0:
        raise refuse("EINVAL", "introduce without an event channel")
    session.core.introduce_by_request(parse_number(domid), parse_number(port))
    return _OK


def _known(session: "Session", number: int) -> Domain:
    domain = session.core.domains.introduced(number)
    if domain is None:
        raise refuse("ENOENT", f"domain {number}")
    return domain


def _guest(session: "Session", packet: Packet) -> Domain:
    number = parse_number(_single(packet))
    if number == DOM0:
        raise refuse("EINVAL", "domain 0 stays")
    return _known(session, number)


def _release(session: "Session", _view: View, packet: Packet) -> bytes:
    session.core.release(_guest(session, packet).domid)
    return _OK


def _resume(session: "Session", _view: View, packet: Packet) -> bytes:
    _guest(session, packet).shut_down = False
    return _OK


def _set_target(session: "Session", _view: View, packet: Packet) -> bytes:
    domid, target = _strings(packet, 2, PAYLOAD_BYTES_MAX)[:2]
    domain = _known(session, Domid(parse_number(domid)))
    domain.target = _known(session, Domid(parse_number(target)))
    return _OK


def _control(session: "Session", _view: View, packet: Packet) -> bytes:
    return control.run(session.core, [text.decode("latin-1") for text in _strings(packet, 1, PAYLOAD_BYTES_MAX)])


Handler = Callable[["Session", View, Packet], bytes]

HANDLERS: Final[dict[int, Handler]] = {
    XsMsgType.CONTROL: _control,
    XsMsgType.DIRECTORY: _directory,
    XsMsgType.READ: _read,
    XsMsgType.GET_PERMS: _get_perms,
    XsMsgType.WATCH: _watch,
    XsMsgType.UNWATCH: _unwatch,
    XsMsgType.TRANSACTION_START: _transaction_start,
    XsMsgType.TRANSACTION_END: _transaction_end,
    XsMsgType.INTRODUCE: _introduce,
    XsMsgType.RELEASE: _release,
    XsMsgType.GET_DOMAIN_PATH: _get_domain_path,
    XsMsgType.WRITE: _write,
    XsMsgType.MKDIR: _mkdir,
    XsMsgType.RM: _rm,
    XsMsgType.SET_PERMS: _set_perms,
    XsMsgType.IS_DOMAIN_INTRODUCED: _is_domain_introduced,
    XsMsgType.RESUME: _resume,
    XsMsgType.SET_TARGET: _set_target,
    XsMsgType.RESET_WATCHES: _reset_watches,
    XsMsgType.DIRECTORY_PART: _directory_part,
}

PRIVILEGED: Final = frozenset(
    {
        XsMsgType.CONTROL,
        XsMsgType.INTRODUCE,
        XsMsgType.RELEASE,
        XsMsgType.IS_DOMAIN_INTRODUCED,
        XsMsgType.RESUME,
        XsMsgType.SET_TARGET,
    }
)

MODIFYING: Final = frozenset({XsMsgType.WRITE, XsMsgType.MKDIR, XsMsgType.RM, XsMsgType.SET_PERMS})

OUTSIDE_TRANSACTIONS: Final = frozenset({XsMsgType.WATCH, XsMsgType.UNWATCH})
