"""Parameters of a backend that runs: changed by the command, through xenstore and by a program; in both engines."""

import json
import threading
from pathlib import Path
from typing import Any

import click
import pytest

import xenblk
from xenblk.abi import DOM0, Domid
from xenblk.blkback.parameter_nodes import ParameterNodes, parameters_path
from xenblk.cli.commands import cli
from xenblk.counters import Counters
from xenblk.emulated.platform import EmulatedPlatform
from xenblk.errors import HostError, UsageError
from xenblk.testing.keeper import nodes
from xenblk.toolstack import backend_path
from xenblk.vdev import parse_vdev

ENGINES = ["native", "python"]


def run(world: Any, *arguments: str) -> None:
    cli(["parameters", "--run-dir", str(world.run_dir), *arguments], standalone_mode=False)


def kept(run_dir: Path, domid: int) -> int:
    """Pages that the backend keeps of a domain's only disk."""
    (path,) = (run_dir / "counters").glob(f"vbd-0-{domid}-*.back")
    counters = Counters.open(path)
    try:
        return counters.persistent_current
    finally:
        counters.close()


def node(name: str) -> str:
    return f"{parameters_path(DOM0)}/{name}"


@pytest.mark.parametrize("engine", ENGINES)
def test_a_lower_limit_applies_to_a_ring_that_is_served(world: Any, engine: str) -> None:
    world.backend("--engine", engine)
    disk = world.disk(domid := world.attach())
    disk.pread(44 * 4096, 0)
    kept = world.counts(domid)["persistent_current"]
    assert kept >= 11
    run(world, "max_persistent_grants=5")
    world.eventually(lambda: world.counts(domid)["persistent_current"] == 5, "a purge to the limit")
    world.eventually(lambda: world.counts(domid)["persistent_purged"] == kept - 5, "that it is counted")
    run(world, "max_persistent_grants=1056", "persistent_grant_unused_seconds=0.2")
    world.eventually(lambda: world.counts(domid)["persistent_current"] == 0, "the timeout")
    assert disk.pread(4096, 0) == bytes(4096)
    world.store.write(node("persistent_grant_unused_seconds"), "60")
    world.eventually(lambda: disk.pread(4096, 0) and world.counts(domid)["persistent_current"] > 0, "pages kept again")


def test_the_command_shows_changes_and_refuses(world: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(HostError, match="no backend serves domain 0: start `xenblk backend`"):
        run(world)
    backend = world.backend("--max-persistent-grants", "77", "--log-stats")
    world.eventually(lambda: world.store.exists(node("log_stats")), "parameters")
    run(world)
    assert "max_persistent_grants = 77\n" in capsys.readouterr().out
    run(world, "max_persistent_grants=78", "log_stats=N")
    assert capsys.readouterr().out == ""
    run(world, "--json")
    shown = json.loads(capsys.readouterr().out)
    assert (shown["max_persistent_grants"], shown["log_stats"]) == ("78", "N")
    for setting, sentence in {
        "max_persistent_grants=-1": "max_persistent_grants is 0 to 1048576, not -1",
        "log_stats=2": "log_stats is Y or N, not '2'",
        "direct=Y": "what may change while a backend runs is",
        "log_stats": "a parameter is changed by NAME=VALUE, not 'log_stats'",
    }.items():
        with pytest.raises((UsageError, click.UsageError), match=sentence):
            run(world, setting)
    run(world, "--json")
    assert json.loads(capsys.readouterr().out) == shown
    backend.stop()
    with pytest.raises(HostError):
        run(world)


def test_regression_backends_of_one_domain_have_parameters_of_their_own(
    world: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    world.backend("--max-queues", "1")
    world.eventually(lambda: world.store.exists(node("max_queues")), "the first one's parameters")
    world.backend("--max-queues", "2", "--backend-type", "other")
    path = f"{parameters_path(DOM0, 'other')}/max_queues"
    world.eventually(lambda: world.store.exists(path), "the second one's")
    run(world, "--backend-type", "other", "max_queues=3")
    assert (world.store.read(node("max_queues")), world.store.read(path)) == ("1", "3")
    offered = f"{backend_path(DOM0, world.attach(), parse_vdev('xvda'))}/multi-queue-max-queues"
    assert world.store.read(offered) == "1"
    with pytest.raises(HostError, match="no backend serves domain 0, type third: start `xenblk backend`"):
        run(world, "--backend-type", "third")


def test_regression_a_backend_leaves_xenstore_as_it_was(world: Any) -> None:
    before = list(nodes(world.store, ""))
    backend = world.backend()
    world.eventually(lambda: world.store.exists(node("log_stats")), "parameters")
    backend.stop()
    assert list(nodes(world.store, "")) == before


def test_a_guest_keeps_what_its_toolstack_made_for_it(world: Any) -> None:
    world.control.call("create", domid=3)
    before = list(nodes(world.store, ""))
    parameters = ParameterNodes(world.store, Domid(3), xenblk.BackendParameters())
    parameters.show()
    assert world.store.exists(f"{parameters_path(Domid(3))}/log_stats")
    parameters.remove()
    assert list(nodes(world.store, "")) == before


def test_what_is_written_past_the_command_is_refused_by_the_backend(world: Any) -> None:
    world.backend()
    world.eventually(lambda: world.store.exists(node("log_stats")), "parameters")
    for bad in ("-1", "many", "1" * 400):
        world.store.write(node("max_persistent_grants"), bad)
        world.eventually(lambda: world.store.read(node("max_persistent_grants")) == "1056", "what stays in force")
    world.store.rm(node("log_stats"))
    world.eventually(lambda: world.store.exists(node("log_stats")), "a node that was removed")
    world.store.write(node("nothing"), "1")
    world.store.write(node("log_stats"), "Y")


def test_regression_what_is_written_as_soon_as_it_is_shown_is_seen(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    show, written = ParameterNodes.show, []

    def show_and_write(nodes: ParameterNodes) -> None:
        show(nodes)
        if not written:
            written.append(world.store.write(node("max_persistent_grants"), "-1"))

    monkeypatch.setattr(ParameterNodes, "show", show_and_write)
    platform = EmulatedPlatform(world.run_dir, DOM0)
    backend = xenblk.Backend(platform)
    thread = threading.Thread(target=backend.run)
    thread.start()
    try:
        world.eventually(lambda: written and world.store.read(node("max_persistent_grants")) == "1056", "what stays")
    finally:
        backend.stop()
        thread.join()
        platform.close()


@pytest.mark.parametrize("engine", ENGINES)
def test_a_new_connection_has_what_was_set_and_an_old_one_stays(engine: str) -> None:
    """Toggled under a live connection it has no effect: that one's ends agreed on what was offered."""
    with xenblk.Host(xenblk.BackendParameters(engine=engine)) as host, host.attach("memory:1M") as old:
        old.pwrite(b"old".ljust(4096), 0)
        host.set_parameter("feature_persistent", "N")
        with pytest.raises(xenblk.UsageError, match="feature_persistent is Y or N, not 'perhaps'"):
            host.set_parameter("feature_persistent", "perhaps")
        with host.attach("memory:1M", "xvdb") as new:
            new.pwrite(b"new".ljust(4096), 0)
            assert new.pread(4096, 0)[:3] == b"new"
            assert [kept(host.run_dir, domid) > 0 for domid in (1, 2)] == [True, False]
        for _ in range(3):
            assert old.pread(4096, 0)[:3] == b"old"
        assert kept(host.run_dir, 1) > 0


def test_the_log_of_counts(world: Any) -> None:
    backend = world.backend("--log-stats")
    world.disk(world.attach()).pread(4096, 0)

    def logged() -> str:
        backend._stderr.seek(0)
        return str(backend._stderr.read().decode())

    world.eventually(lambda: "| pg: " in logged(), "a line of counts")
    assert "oo   0  |  rd " in logged()
