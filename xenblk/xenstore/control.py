"""CONTROL: what `xenstore-control` asks. Commands and their answers are those of the C daemon.

Not here is live-update: to replace a running server is not what this one is for.
"""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

from xenblk.xenstore.domain import Quotas
from xenblk.xenstore.store import parse_number, refuse

if TYPE_CHECKING:
    from xenblk.xenstore.xenstored import Xenstored

_HARD: Final = {
    "nodes": ("nodes", "Nodes per domain"),
    "watches": ("watches", "Watches per domain"),
    "transactions": ("transactions", "Transactions per domain"),
    "outstanding": ("outstanding", "Outstanding requests per domain"),
    "transaction-nodes": ("transaction_nodes", "Max. number of accessed nodes per transaction"),
    "memory": ("memory", "Total Xenstore memory per domain (error level)"),
    "node-size": ("node_size", "Max. size of a node"),
    "path-max": ("path_max", "Max. length of a node path"),
    "permissions": ("permissions", "Max. number of permissions per node"),
}
_SOFT: Final = {"memory": ("memory_soft", "Total Xenstore memory per domain (warning level)")}


def run(core: "Xenstored", words: list[str]) -> bytes:
    """Do a command and give its answer; EINVAL for what is none."""
    command = _COMMANDS.get(words[0])
    if command is None:
        raise refuse("EINVAL", f"control {words[0][:40]!r}")
    return command[0](core, words[1:]).encode("latin-1") + b"\0"


def _check(core: "Xenstored", words: list[str]) -> str:
    _expect(words, 0)
    core.trace.note("Checking store ...")
    for fault in core.tree.check():
        core.trace.note(f"check_store: {fault}")
    core.trace.note("Checking store complete.")
    return "OK"


def _log(core: "Xenstored", words: list[str]) -> str:
    _expect(words, 1)
    if words[0] == "on":
        _open_trace(core, None)
    elif words[0] == "off":
        core.trace.close()
    else:
        raise refuse("EINVAL", "log on or off")
    return "OK"


def _logfile(core: "Xenstored", words: list[str]) -> str:
    _expect(words, 1)
    _open_trace(core, Path(words[0]))
    return "OK"


def _open_trace(core: "Xenstored", path: Path | None) -> None:
    try:
        core.trace.open(path)
    except (OSError, ValueError):
        raise refuse("EINVAL", "a trace file that cannot be opened") from None


def _memreport(core: "Xenstored", words: list[str]) -> str:
    if len(words) > 1:
        raise refuse("EINVAL", "memreport")
    report = "".join(f"domain {domain.domid}: {domain.memory_bytes} bytes\n" for domain in core.domains)
    try:
        core.trace.report(report, Path(words[0]) if words else None)
    except (OSError, ValueError):
        raise refuse("EINVAL", "a report that cannot be written") from None
    return "OK"


def _print(core: "Xenstored", words: list[str]) -> str:
    _expect(words, 1)
    core.trace.note(f"control: {words[0]}")
    return "OK"


def _quota(core: "Xenstored", words: list[str]) -> str:
    if words[:1] == ["set"]:
        return _set(core.quotas, words[1:], _HARD)
    if not words:
        return _show(core.quotas, _HARD)
    _expect(words, 1)
    domain = core.domains.get(parse_number(words[0].encode("latin-1")))
    if domain is None:
        raise refuse("ENOENT", f"domain {words[0][:40]}")
    limited = not domain.privileged
    used = {
        "nodes": len(domain.owned),
        "watches": domain.nr_watches if limited else 0,
        "transactions": domain.nr_transactions if limited else 0,
        "outstanding": domain.nr_outstanding,
        "memory": domain.memory_bytes,
    }
    return f"Domain {domain.domid}:\n" + "".join(f"{name:16}: {value:8}\n" for name, value in used.items())


def _quota_soft(core: "Xenstored", words: list[str]) -> str:
    if words[:1] == ["set"]:
        return _set(core.quotas, words[1:], _SOFT)
    _expect(words, 0)
    return _show(core.quotas, _SOFT)


def _show(quotas: Quotas, names: dict[str, tuple[str, str]]) -> str:
    lines = [f"{name:17}: {getattr(quotas, field):8} {text}\n" for name, (field, text) in names.items()]
    return "Quota settings:\n" + "".join(lines)


def _set(quotas: Quotas, words: list[str], names: dict[str, tuple[str, str]]) -> str:
    _expect(words, 2)
    value = parse_number(words[1].encode("latin-1"))
    if words[0] not in names or not 0 < value < 1 << 31:
        raise refuse("EINVAL", f"quota {words[0][:40]!r}")
    setattr(quotas, names[words[0]][0], value)
    return "OK"


def _help(_core: "Xenstored", words: list[str]) -> str:
    _expect(words, 0)
    return "".join(f"{name}\t{arguments}\n" for name, (_, arguments) in _COMMANDS.items())


def _expect(words: list[str], count: int) -> None:
    if len(words) != count:
        raise refuse("EINVAL", f"{len(words)} arguments of {count}")


_COMMANDS: Final[dict[str, tuple[Callable[["Xenstored", list[str]], str], str]]] = {
    "check": (_check, ""),
    "log": (_log, "on|off"),
    "logfile": (_logfile, "<file>"),
    "memreport": (_memreport, "[<file>]"),
    "print": (_print, "<string>"),
    "quota": (_quota, "[set <name> <val>|<domid>]"),
    "quota-soft": (_quota_soft, "[set <name> <val>]"),
    "help": (_help, ""),
}
