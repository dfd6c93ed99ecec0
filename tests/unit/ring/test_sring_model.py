"""Random schedules of both ends against two queues; entries of several sizes, indexes that wrap."""

import collections
import mmap
import struct

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from xenblk.errors import WouldBlockError
from xenblk.ring import BackRing, FrontRing


class TwoEnds(RuleBasedStateMachine):
    """What the ends agree on is in `requests` and `responses`; `asleep` ends may only be woken by a notification."""

    @initialize(entry_size=st.sampled_from([8, 108, 112]), pages=st.sampled_from([1, 2]), order=st.integers(0, 3))
    def connect(self, entry_size: int, pages: int, order: int) -> None:
        self.page = memoryview(mmap.mmap(-1, pages * 4096))
        self.entry_size = entry_size
        self.front = FrontRing(self.page, entry_size)
        words = self.page.cast("I")
        start = (1 << 32) - (1 << order)
        words[0] = words[2] = start
        words[1] = words[3] = (start + 1) & 0xFFFFFFFF
        for field in ("req_prod_pvt", "req_prod_pushed", "rsp_cons", "rsp_prod_seen"):
            setattr(self.front._private, field, start)
        self.back = BackRing(self.page, entry_size)
        self.number = 0
        self.put_requests: collections.deque[bytes] = collections.deque()
        self.requests: collections.deque[bytes] = collections.deque()
        self.serving: collections.deque[bytes] = collections.deque()
        self.put_responses: collections.deque[bytes] = collections.deque()
        self.responses: collections.deque[bytes] = collections.deque()
        self.front_asleep = self.back_asleep = False

    def _in_flight(self) -> int:
        queues = (self.put_requests, self.requests, self.serving, self.put_responses, self.responses)
        return sum(len(queue) for queue in queues)

    @rule(count=st.integers(1, 40))
    def put_requests_until_full(self, count: int) -> None:
        for _ in range(count):
            entry = struct.pack("<Q", self.number).ljust(self.entry_size, b"q")
            self.number += 1
            try:
                self.front.put(entry)
            except WouldBlockError:
                assert self._in_flight() == self.front.nr_ents
                return
            self.put_requests.append(entry)

    @rule()
    def push_requests(self) -> None:
        notify = self.front.push()
        if self.back_asleep and self.put_requests:
            assert notify, "the backend sleeps and nobody wakes it"
        if notify:
            self.back_asleep = False
        self.requests.extend(self.put_requests)
        self.put_requests.clear()

    @precondition(lambda self: not self.back_asleep)
    @rule(count=st.integers(1, 40))
    def consume_requests(self, count: int) -> None:
        for _ in range(count):
            entry = self.back.consume()
            assert entry == (self.requests.popleft() if self.requests else None)
            if entry is not None:
                self.serving.append(entry)

    @rule(data=st.data())
    def put_responses_in_any_order(self, data: st.DataObject) -> None:
        for _ in range(data.draw(st.integers(0, len(self.serving)), label="count")):
            chosen = data.draw(st.integers(0, len(self.serving) - 1), label="which")
            request = self.serving[chosen]
            del self.serving[chosen]
            entry = request[:8].ljust(self.entry_size, b"s")
            self.back.put(entry)
            self.put_responses.append(entry)

    @rule()
    def push_responses(self) -> None:
        notify = self.back.push()
        if self.front_asleep and self.put_responses:
            assert notify, "the frontend sleeps and nobody wakes it"
        if notify:
            self.front_asleep = False
        self.responses.extend(self.put_responses)
        self.put_responses.clear()

    @precondition(lambda self: not self.front_asleep)
    @rule(count=st.integers(1, 40))
    def consume_responses(self, count: int) -> None:
        for _ in range(count):
            assert self.front.consume() == (self.responses.popleft() if self.responses else None)

    @precondition(lambda self: not self.back_asleep)
    @rule()
    def back_wants_to_sleep(self) -> None:
        work = self.back.final_check()
        assert work == bool(self.requests)
        self.back_asleep = not work

    @precondition(lambda self: not self.front_asleep)
    @rule()
    def front_wants_to_sleep(self) -> None:
        work = self.front.final_check()
        assert work == bool(self.responses)
        self.front_asleep = not work

    @invariant()
    def counts_agree(self) -> None:
        if not hasattr(self, "back"):
            return
        self.front._check()
        self.back._check()
        assert self.front.outstanding == self._in_flight()
        assert self.back.unanswered == len(self.serving)


TwoEnds.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None, print_blob=True)
test_two_ends = TwoEnds.TestCase
