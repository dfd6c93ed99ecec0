"""The machine itself: Xen runs, guests run, and emulation does not garble them. Nothing of the project takes part."""

from collections.abc import Callable

import pytest

from lab.guests import Guest
from lab.machine import LabError, Machine

Say = Callable[[str], None]
GUEST_S = 300

# QEMU's emulation of XSAVE spoils a byte or kills a process about once in 150 such rounds, which is why the machine has
# none: without this watch, another cause of the kind would look like a fault of whatever is tested.
ROUNDS = 200
WATCH = f"""
echo "hello from $(uname -r)"
wanted=$(seq 1 2000 | md5sum)
wrong=0
for round in $(seq 1 {ROUNDS}); do
    [ "$(seq 1 2000 | md5sum)" = "$wanted" ] || wrong=$((wrong + 1))
done
echo "watched {ROUNDS} rounds, wrong: $wrong"
"""


def test_xen_runs_with_linux_in_domain_0(dom0: Machine, say: Say) -> None:
    info = dict(line.split(":", 1) for line in dom0.check("xl info").splitlines())
    facts = {key.strip(): value.strip() for key, value in info.items()}
    say(f"Xen {facts['xen_version']}, Linux {facts['release']}, {facts['total_memory']} MB")
    assert facts["xen_major"] == "4"
    assert "control_d" in dom0.check("cat /proc/xen/capabilities")
    assert "/dev/xen/gntdev" in dom0.check("ls /dev/xen/*")


def test_the_shell_says_how_commands_end(dom0: Machine) -> None:
    assert dom0.run("echo one; echo two >&2; exit 3").status == 3
    assert dom0.run("echo one; echo two >&2").output == "one\ntwo"
    assert dom0.run("sleep 60", timeout_s=1).status == 124
    assert dom0.check("cat") == ""
    with pytest.raises(LabError, match="status 1 from: false"):
        dom0.check("false")


def test_files_go_both_ways(dom0: Machine) -> None:
    content = bytes(range(256)) * 1000
    dom0.put("/tmp/deep/file", content, 0o755)
    assert dom0.get("/tmp/deep/file") == content
    assert dom0.check("stat -c %a /tmp/deep/file") == "755"


def test_domain_0_has_the_project(dom0: Machine, say: Say) -> None:
    said = dom0.check("xenblk --version")
    say(said)
    assert "xenblk" in said


def test_a_pv_guest_runs_and_is_not_garbled(guest: Callable[..., Guest], say: Say) -> None:
    pv = guest("pv", WATCH)
    pv.wait("hello from", GUEST_S)
    said = pv.wait("lab: job ended with", GUEST_S)
    say(next(line for line in said.splitlines() if line.startswith("watched")))
    assert f"watched {ROUNDS} rounds, wrong: 0" in said
    assert "lab: job ended with 0" in said
