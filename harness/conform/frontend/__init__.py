"""The cases for frontends; importing the package registers them all, in this order."""

from xenblk.harness.conform.frontend import states, keys, requests, rings, responses, grants, life  # noqa: I001
from xenblk.harness.conform.frontend.stage import FRONTEND, FrontendLab
from xenblk.harness.conform.frontend.subject import FrontendKind, FrontendUnderTest, frontend_kind

__all__ = [
    "FRONTEND",
    "FrontendKind",
    "FrontendLab",
    "FrontendUnderTest",
    "frontend_kind",
    "grants",
    "keys",
    "life",
    "requests",
    "responses",
    "rings",
    "states",
]
