"""Running the cases for frontends: who is tested. The Xen is one of its own, and the backend is by hand."""

import contextlib
from collections.abc import Iterable, Iterator

from xenblk.abi import DOM0
from xenblk.emulated.platform import EmulatedPlatform
from xenblk.harness.conform.case import Case, Outcome, run_cases
from xenblk.harness.conform.emulated import EmulatedXen
from xenblk.harness.conform.frontend import FRONTEND, FrontendKind, FrontendLab, frontend_kind
from xenblk.harness.conform.frontend.stage import FrontendStage
from xenblk.processes import HostProcess


@contextlib.contextmanager
def emulated_lab(kind: FrontendKind, xen: EmulatedXen) -> Iterator[FrontendLab]:
    """A lab in an emulated Xen: each case has a domain of its own."""
    host = EmulatedPlatform(xen.run_dir, DOM0)
    try:
        yield FrontendLab(kind, xen, host, xen.guest)
    finally:
        host.close()


def run_frontend_cases(
    frontend: str | FrontendKind, cases: Iterable[Case[FrontendStage]] | None = None
) -> Iterator[Outcome[FrontendStage]]:
    """Run cases, all unless they are said, against a frontend, by name or of any kind; UsageError for no such name."""
    kind = frontend_kind(frontend) if isinstance(frontend, str) else frontend
    with contextlib.ExitStack() as stack:
        host = stack.enter_context(HostProcess())
        xen = stack.enter_context(EmulatedXen(host.run_dir))
        lab = stack.enter_context(emulated_lab(kind, xen))
        yield from run_cases(FRONTEND.select() if cases is None else cases, lab.stage)
