"""The line of print_stats in Linux's blkback.c, without its habit of setting the counters to 0."""

import logging

import pytest

from xenblk.blkback import BackendParameters
from xenblk.blkback.stats_log import LOGGER, StatsLog
from xenblk.counters import Counters


def test_the_line_every_10_seconds_while_it_is_wanted(caplog: pytest.LogCaptureFixture) -> None:
    counters, parameters = Counters(), BackendParameters(max_persistent_grants=100)
    counters.oo_req, counters.rd_req, counters.wr_req = 1, 22, 33333
    counters.f_req, counters.ds_req, counters.persistent_current = 4, 5, 66
    log = StatsLog("vbd-0-1-51712-0", counters, parameters)
    before = counters.snapshot()
    with caplog.at_level(logging.INFO, LOGGER):
        log.tick(5.0)
        assert caplog.messages == []
        parameters.change("log_stats", "Y")
        for now_s in (6.0, 7.0, 15.9, 16.0, 17.0):
            log.tick(now_s)
        parameters.change("log_stats", "N")
        log.tick(100.0)
    line = "(vbd-0-1-51712-0): oo   1  |  rd   22  |  wr 33333  |  f    4  |  ds    5 | pg:   66/ 100"
    assert caplog.messages == [line, line]
    assert counters.snapshot() == before
