"""Running the cases for frontends: who is tested. The Xen is one of its own, and the backend is by hand."""

import contextlib
from collections.abc import Iterable, Iterator

from xenblk.harness.conform.case import Case, Outcome, run_cases
from xenblk.harness.conform.frontend import FRONTEND, FrontendKind, FrontendLab, frontend_kind
from xenblk.harness.conform.frontend.stage import FrontendStage
from xenblk.harness.conform.xen import Xen
from xenblk.processes import HostProcess


def run_frontend_cases(
    frontend: str | FrontendKind, cases: Iterable[Case[FrontendStage]] | None = None
) -> Iterator[Outcome[FrontendStage]]:
    """Run cases, all unless they are said, against a frontend, by name or of any kind; UsageError for no such name."""
    kind = frontend_kind(frontend) if isinstance(frontend, str) else frontend
    with contextlib.ExitStack() as stack:
        host = stack.enter_context(HostProcess())
        xen = stack.enter_context(Xen(host.run_dir))
        lab = stack.enter_context(FrontendLab(kind, xen))
        yield from run_cases(FRONTEND.select() if cases is None else cases, lab.stage)
