"""GrantTable and GrantMappers together against a model: who may map what, what it costs, and when access ends."""

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from xenblk.abi import Domid
from xenblk.grants import CopySegment, GnttabMapper, GrantMapper, GrantStatus

FRAMES = 16
NR_TRACK = 12
OTHER = Domid(3)


class GrantsMachine(RuleBasedStateMachine):
    """Two mappers of domain 0 and one of domain 3; `granted` is ref -> (domid, frame, read-only)."""

    world_class: type[Any]

    def __init__(self) -> None:
        super().__init__()
        self.world = self.world_class(nr_frames=FRAMES, nr_entries=16)
        self.mappers = [
            self.world.mapper(domid, 64, NR_TRACK) for domid in (self.world.backend, self.world.backend, OTHER)
        ]
        self.granted: dict[int, tuple[int, int, bool]] = {}
        self.held: list[tuple[int, Any, bool]] = []
        self.bytes = {frame: 0 for frame in range(1, FRAMES)}

    def pick(self, number: int) -> int:
        known = sorted(self.granted)
        return known[number % len(known)] if known and number < 90 else number

    def expect(self, who: int, ref: int, write: bool) -> GrantStatus:
        if ref >= 16:
            return GrantStatus.BAD_GNTREF
        domid, frame, readonly = self.granted.get(ref, (None, 0, False))
        if domid != (OTHER if who == 2 else 0) or (write and readonly):
            return GrantStatus.GENERAL_ERROR
        return GrantStatus.OKAY if frame < FRAMES else GrantStatus.BAD_PAGE

    @precondition(lambda self: self.world.table.free_count)
    @rule(domid=st.sampled_from([Domid(0), OTHER]), frame=st.integers(1, FRAMES), readonly=st.booleans())
    def grant(self, domid: Domid, frame: int, readonly: bool) -> None:
        (ref,) = self.world.table.grant(domid, [frame], readonly)
        assert ref not in self.granted
        self.granted[ref] = (domid, frame, readonly)

    @precondition(lambda self: self.granted)
    @rule(number=st.integers(0, 89))
    def end(self, number: int) -> None:
        ref = self.pick(number)
        in_use = any(mapping.ref == ref for _, mapping, _ in self.held)
        assert self.world.table.end_access(ref) == (not in_use)
        if not in_use:
            del self.granted[ref]

    @rule(who=st.integers(0, 2), numbers=st.lists(st.integers(0, 99), max_size=6), readonly=st.booleans())
    def map(self, who: int, numbers: list[int], readonly: bool) -> None:
        refs = [self.pick(number) for number in numbers]
        mappings = self.mappers[who].map(self.world.domain, refs, readonly)
        free = NR_TRACK - sum(owner == who for owner, _, _ in self.held)
        for mapping, ref in zip(mappings, refs, strict=True):
            expected = self.expect(who, ref, not readonly) if free else GrantStatus.NO_SPACE
            assert (mapping.ref, mapping.status) == (ref, expected)
            assert (mapping.page is not None) == (expected == GrantStatus.OKAY)
            if mapping.page is not None:
                free -= 1
                self.held.append((who, mapping, readonly))

    @precondition(lambda self: self.held)
    @rule(numbers=st.sets(st.integers(0, 40), min_size=1, max_size=6), who=st.integers(0, 2))
    def unmap(self, numbers: set[int], who: int) -> None:
        mine = [held for held in self.held if held[0] == who]
        chosen = [held for i, held in enumerate(mine) if i in numbers]
        self.mappers[who].unmap([mapping for _, mapping, _ in chosen])
        self.held = [held for held in self.held if held not in chosen]

    @precondition(lambda self: self.held)
    @rule(number=st.integers(0, 100), value=st.integers(0, 255))
    def write_through_a_mapping(self, number: int, value: int) -> None:
        _, mapping, readonly = self.held[number % len(self.held)]
        frame = self.granted[mapping.ref][1]
        if not readonly:
            mapping.page[0] = value
            self.bytes[frame] = value

    @rule(who=st.integers(0, 2), number=st.integers(0, 99), value=st.integers(0, 255), to_grant=st.booleans())
    def copy(self, who: int, number: int, value: int, to_grant: bool) -> None:
        ref, buffer = self.pick(number), memoryview(bytearray([value]))
        (status,) = self.mappers[who].copy(self.world.domain, [CopySegment(ref, 0, buffer, to_grant)])
        full = sum(owner == who for owner, _, _ in self.held) == NR_TRACK
        assert status == (GrantStatus.NO_SPACE if full else self.expect(who, ref, to_grant))
        if status == GrantStatus.OKAY:
            frame = self.granted[ref][1]
            if to_grant:
                self.bytes[frame] = value
            assert buffer[0] == self.bytes[frame]

    @rule(who=st.integers(0, 2))
    def die(self, who: int) -> None:
        mine = [held for held in self.held if held[0] == who]
        assert self.world.release(who + 1) == len(mine)
        self.held = [held for held in self.held if held[0] != who]
        dead = self.mappers[who]
        domid = OTHER if who == 2 else self.world.backend
        maptrack = memoryview(self.world.maptracks[who + 1])
        self.mappers[who] = GrantMapper(GnttabMapper(who + 1, domid, maptrack), 64)
        self.world.mappers[who] = self.mappers[who]
        dead._mapped.clear()
        dead.close()

    @invariant()
    def agrees(self) -> None:
        self.world.check()
        counted: dict[int, list[int]] = {}
        for _, mapping, readonly in self.held:
            counted.setdefault(mapping.ref, [0, 0])[not readonly] += 1
            assert mapping.page[0] == self.bytes[self.granted[mapping.ref][1]]
        assert self.world.pins() == {ref: tuple(numbers) for ref, numbers in counted.items()}
        for who, mapper in enumerate(self.mappers):
            assert mapper.mapped_pages == sum(owner == who for owner, _, _ in self.held)

    def teardown(self) -> None:
        self.world.close()
        assert self.world.pins() == {}


def test_grants_agree_with_a_model(world_class: type[Any]) -> None:
    GrantsMachine.world_class = world_class
    run_state_machine_as_test(GrantsMachine, settings=settings(max_examples=60, stateful_step_count=30))
