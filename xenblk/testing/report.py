"""What to read when a test failed: states, nodes and counters of each disk, and what programs wrote."""

import contextlib
from collections.abc import Iterator
from typing import Final

from xenblk.errors import XenblkError
from xenblk.processes import Program
from xenblk.testing.host import XenHost
from xenblk.testing.keeper import nodes
from xenblk.testing.vbd import ENDS, AttachedVbd

_OUTPUT_LINES: Final = 20


def describe(host: XenHost) -> str:
    """A page about all disks and programs of a host, dead or alive."""
    lines: list[str] = []
    try:
        for vbd in host.vbds:
            lines += _vbd(vbd)
    except XenblkError as e:
        lines.append(f"the host does not say more: {e}")
    for program in host.programs:
        lines += _program(program)
    return "\n".join(lines)


def _vbd(vbd: AttachedVbd) -> Iterator[str]:
    yield f"{vbd.vdev} of domain {vbd.domid}"
    yield f"  states: frontend {vbd.frontend_state().label}, backend {vbd.backend_state().label}"
    if error := vbd.error():
        yield f"  error of the backend: {error}"
    yield f"  pages mapped by others: {vbd.pins()}"
    counters = {end: vbd.counters(end) for end in ENDS}
    yield f"  {'counters':24}" + "".join(f"{end:>12}" for end in ENDS)
    for name in counters["back"]:
        values = [counters[end][name] for end in ENDS]
        if any(values):
            yield f"    {name:22}" + "".join(f"{value:12}" for value in values)
    for end, path in (("frontend", vbd.frontend_path), ("backend", vbd.backend_path)):
        yield f"  {end}'s nodes, {path}"
        if vbd.store.exists(path):
            with contextlib.suppress(XenblkError):  # a node may go while it is read
                for node, value in nodes(vbd.store, path):
                    yield f"    {node.removeprefix(path + '/')} = {value!r}"


def _program(program: Program) -> Iterator[str]:
    state = "running" if program.running() else f"ended with status {program.wait()}"
    yield f"{program.name}: {state}"
    for what, text in (("output", program.stdout()), ("standard error", program.stderr())):
        if lines := text.splitlines():
            yield f"  {what}, the last of {len(lines)} lines" if len(lines) > _OUTPUT_LINES else f"  {what}"
            yield from (f"    {line}" for line in lines[-_OUTPUT_LINES:])
