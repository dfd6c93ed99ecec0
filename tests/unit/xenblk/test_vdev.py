"""Names and numbers of virtual devices, as xen-vbd-interface(7) has them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xenblk.errors import UsageError
from xenblk.vdev import parse_vdev, vdev_name

KNOWN = {
    "xvda": 51712,
    "xvdb": 51728,
    "xvda1": 51713,
    "xvdp15": 51712 + 15 * 16 + 15,
    "xvdq": 1 << 28 | 16 << 8,
    "xvda16": 1 << 28 | 16,
    "sda": 2048,
    "sdp": 2048 + 240,
    "hda": 768,
    "hdb": 832,
    "hdc": 5632,
    "hdd2": 5632 + 64 + 2,
}


@pytest.mark.parametrize(("name", "number"), KNOWN.items())
def test_names_and_numbers_both_ways(name: str, number: int) -> None:
    assert parse_vdev(name) == number
    assert vdev_name(number) == name
    assert parse_vdev(str(number)) == number


@pytest.mark.parametrize(
    "name", ["", "xvd", "xvdA", "vda", "sdq", "hde", "xvda1000", "-1", "xvdzzzzz", "xvdaaaaaa", "1e3", str(1 << 29)]
)
def test_other_names_are_refused_with_a_sentence(name: str) -> None:
    with pytest.raises(UsageError, match="named like xvda"):
        parse_vdev(name)


@given(st.integers(0, (1 << 29) - 1))
def test_every_number_has_a_name_that_leads_back(number: int) -> None:
    assert parse_vdev(vdev_name(number)) == number
