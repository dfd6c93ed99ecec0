"""Cases for frontends: the order of states, and backends that go through theirs in unusual ways."""

from xenblk.harness.conform.case import expect
from xenblk.harness.conform.frontend.stage import FLUSH, FRONTEND, PROPERTIES, FrontendStage
from xenblk.xenbus import XenbusState as S

_HEADER = "io/blkif.h, state diagrams"
_LINUX = "Linux xen-blkfront.c, blkback_changed"


@FRONTEND.case("F-STATE-001", "before InitWait, only default transport parameters are used", _HEADER)
def before_initwait(stage: FrontendStage) -> str:
    stage.backend.write({"max-ring-page-order": "4", "multi-queue-max-queues": "4"})
    stage.start().connect()
    stage.wait_quietly()
    state = stage.backend.frontend_state
    keys = stage.backend.frontend_keys()
    if state is S.INITIALISING:
        return "it waits for InitWait"
    chosen = {"ring-page-order", "num-ring-pages", "multi-queue-num-queues"} & keys.keys()
    expect(not chosen, f"before InitWait it chose {', '.join(sorted(chosen))}")
    return f"it went to {state.label} on its own"


@FRONTEND.case("F-STATE-002", "Initialised or Connected follows InitWait", _HEADER)
def follows_initwait(stage: FrontendStage) -> str:
    stage.set_up(stage.start())
    return f"it went to {stage.backend.frontend_state.label}"


@FRONTEND.case("F-STATE-003", "Initialised lasts until the backend is Connected", _HEADER)
def waits_for_connected(stage: FrontendStage) -> None:
    connecting = stage.set_up(stage.start())
    if stage.backend.frontend_state is S.CONNECTED:
        return
    stage.wait_quietly()
    expect(stage.backend.frontend_state is S.INITIALISED, "it did not wait for the backend")
    expect(not connecting.done(), "its user may use the disk before the backend is Connected")


@FRONTEND.case("F-STATE-004", "Connected follows the backend's Connected", _HEADER)
def connected(stage: FrontendStage) -> None:
    stage.expect_working(stage.connect())


@FRONTEND.case("F-STATE-005", "InitWait seen twice sets up one ring", "Linux commit a9b54bb9")
def initwait_twice(stage: FrontendStage) -> None:
    frontend = stage.start()
    connecting = stage.set_up(frontend)
    keys = stage.backend.frontend_keys()
    stage.backend.switch(S.INITWAIT)
    stage.wait_quietly()
    expect(stage.backend.frontend_keys() == keys, "the second InitWait changed the frontend's nodes")
    stage.backend.attach_rings()
    stage.backend.write(PROPERTIES)
    stage.backend.switch(S.CONNECTED)
    stage.finish_connecting(connecting)
    stage.expect_working(frontend)


@FRONTEND.case("F-STATE-006", "a backend that skips InitWait is connected to", _LINUX)
def straight_to_connected(stage: FrontendStage) -> None:
    stage.backend.write({**FLUSH, **PROPERTIES})
    frontend = stage.start()
    connecting = frontend.connect()
    stage.backend.switch(S.CONNECTED)
    stage.backend.await_frontend(S.CONNECTED)
    stage.backend.attach_rings()
    stage.finish_connecting(connecting)
    stage.expect_working(frontend)


def _ignored(state: S) -> None:
    @FRONTEND.case(f"F-STATE-01{int(state)}", f"a Connected frontend ignores the backend's {state.label}", _LINUX)
    def ignored(stage: FrontendStage) -> None:
        frontend = stage.connect()
        stage.backend.switch(state)
        stage.wait_quietly()
        expect(stage.backend.frontend_state is S.CONNECTED, f"it went to {stage.backend.frontend_state.label}")
        stage.expect_working(frontend)


for _state in (S.INITIALISING, S.INITWAIT, S.INITIALISED, S.RECONFIGURING, S.RECONFIGURED):
    _ignored(_state)


@FRONTEND.case("F-STATE-020", "a state that is no number is no state", "xenbus_read_driver_state")
def garbled_state(stage: FrontendStage) -> None:
    frontend = stage.start()
    connecting = frontend.connect()
    stage.backend.switch("elephant")
    stage.wait_quietly()
    expect(not connecting.done(), "a garbled state ended the handshake")
    stage.go_on(connecting)
    stage.expect_working(frontend)


@FRONTEND.case("F-STATE-021", "a state written again and again changes nothing", _LINUX)
def state_storm(stage: FrontendStage) -> None:
    frontend = stage.connect()
    keys = stage.backend.frontend_keys()
    for _ in range(500):
        stage.backend.switch(S.CONNECTED)
    stage.expect_working(frontend)
    expect(stage.backend.frontend_keys() == keys, "the frontend's nodes changed")


def _property(number: int, name: str, value: str | None) -> None:
    how = "missing" if value is None else f"{value!r}"

    @FRONTEND.case(f"F-STATE-{number:03}", f"`{name}` {how} at Connected is no reason to guess", _LINUX)
    def bad_property(stage: FrontendStage) -> str:
        frontend = stage.start()
        connecting = stage.set_up(frontend)
        stage.backend.attach_rings()
        stage.backend.write({**PROPERTIES, name: value})
        stage.backend.switch(S.CONNECTED)
        error = stage.end_of_connecting(connecting)
        if isinstance(error, OSError):
            return f"refused: {error}"
        expect(error is None, f"the handshake ended with {error!r}")
        expect(name != "sectors", "a disk without a size was connected")
        stage.expect_working(frontend)
        return "a default was taken"


for _at, (_name, _value) in enumerate(
    [("sectors", None), ("sectors", "elephant"), ("sectors", "-1"), ("sector-size", None), ("info", None)], 30
):
    _property(_at, _name, _value)
