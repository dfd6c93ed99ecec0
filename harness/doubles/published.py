"""`python -m xenblk.harness.doubles.published` prints the tables of docs/conformance.md."""

from xenblk.harness.doubles.backend_deviations import BACKEND_DEVIATIONS
from xenblk.harness.doubles.deviations import document
from xenblk.harness.doubles.frontend_deviations import FRONTEND_DEVIATIONS
from xenblk.harness.doubles.real_deviations import frontends_held_to, held_to


def tables() -> str:
    """The doubles of both ends, then the originals, in Markdown."""
    return document(
        {
            "Backends": BACKEND_DEVIATIONS,
            "Frontends": FRONTEND_DEVIATIONS,
            "Backends on real Xen": held_to(),
            "Frontends on real Xen": frontends_held_to(),
        }
    )


if __name__ == "__main__":
    print(tables(), end="")
