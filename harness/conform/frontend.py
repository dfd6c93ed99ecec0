"""All cases for frontends, by importing the files that have them."""

from xenblk.harness.conform import (
    frontend_grants,
    frontend_keys,
    frontend_life,
    frontend_requests,
    frontend_responses,
    frontend_rings,
    frontend_states,
)
from xenblk.harness.conform.frontend_stage import CASES

__all__ = [
    "CASES",
    "frontend_grants",
    "frontend_keys",
    "frontend_life",
    "frontend_requests",
    "frontend_responses",
    "frontend_rings",
    "frontend_states",
]
