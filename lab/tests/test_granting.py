"""The granting side on real Xen: Linux's gntalloc."""

from collections.abc import Callable

Say = Callable[[str], None]


def test_pages_that_linux_grants(program: Callable[..., str], say: Say) -> None:
    said = program("granting.py")
    for line in said.splitlines():
        say(line)
    assert "after 1023: 11 pages more cannot be granted: all processes together may have 1024 " in said
    assert "what is freed can be granted again" in said
