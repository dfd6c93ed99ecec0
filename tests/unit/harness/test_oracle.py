"""The model disk: content is distinct, and whatever is wrong is found and named."""

import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xenblk.harness.oracle import Oracle, VerifyError

BS = 4096


def written(oracle: Oracle, block: int) -> bytearray:
    """The block's next content."""
    data = bytearray(oracle.bs)
    oracle.write(block, memoryview(data))
    return data


def test_the_last_content_written_is_right_and_every_earlier_one_is_wrong() -> None:
    oracle = Oracle(1, BS)
    versions = [written(oracle, 3) for _ in range(5)]

    oracle.check(3, memoryview(versions[-1]))
    for past in versions[:-1]:
        with pytest.raises(VerifyError, match="block 3 at offset 12288"):
            oracle.check(3, memoryview(past))


def test_the_sentence_names_block_offset_checksums_and_seed() -> None:
    oracle = Oracle(77, BS)
    first, second = written(oracle, 9), written(oracle, 9)

    with pytest.raises(VerifyError) as caught:
        oracle.check(9, memoryview(first))

    assert str(caught.value) == (
        f"block 9 at offset {9 * BS} must hold version 2 with checksum {zlib.crc32(second):#010x}, "
        f"found {zlib.crc32(first):#010x} under the header of block 9, version 1; "
        f"the first wrong byte is 16 of 4096; seed 77"
    )


def test_a_block_never_written_is_zeros_or_the_initial_content() -> None:
    Oracle(1, BS).check(5, memoryview(bytes(BS)))
    with pytest.raises(VerifyError, match="version 0"):
        Oracle(1, BS).check(5, memoryview(b"\0" * (BS - 1) + b"x"))

    disk = bytes(range(256)) * 128
    oracle = Oracle(1, BS, lambda block: zlib.crc32(disk[block * BS : (block + 1) * BS]))
    oracle.check(5, memoryview(disk)[5 * BS : 6 * BS])
    with pytest.raises(VerifyError, match="version 0"):
        oracle.check(6, memoryview(bytes(BS)))


def test_unknown_content_is_what_is_found_first() -> None:
    oracle = Oracle(1, BS, lambda _block: None)
    oracle.check(5, memoryview(b"a" * BS))
    oracle.check(5, memoryview(b"a" * BS))
    with pytest.raises(VerifyError, match="version 0"):
        oracle.check(5, memoryview(b"b" * BS))
    mine = written(oracle, 5)
    oracle.check(5, memoryview(mine))


@given(
    seed=st.integers(),
    sectors=st.integers(1, 8),
    places=st.lists(st.integers(0, 2**20), min_size=2, max_size=2, unique=True),
)
def test_content_is_reproducible_and_distinct_per_seed_block_and_version(
    seed: int, sectors: int, places: list[int]
) -> None:
    one, same = Oracle(seed, 512 * sectors), Oracle(seed, 512 * sectors)
    contents = [bytes(written(one, block)) for block in (*places, *places)]

    assert contents == [bytes(written(same, block)) for block in (*places, *places)]
    assert len(set(contents)) == 4
    assert bytes(written(Oracle(seed + 1, 512 * sectors), places[0])) not in contents


@given(position=st.integers(0, BS - 1), value=st.integers(1, 255))
def test_any_single_wrong_byte_is_found(position: int, value: int) -> None:
    oracle = Oracle(4, BS)
    data = written(oracle, 0)
    data[position] ^= value

    with pytest.raises(VerifyError, match="first wrong byte is " + str(position)):
        oracle.check(0, memoryview(data))


@pytest.mark.parametrize("page", range(4))
def test_a_page_of_another_block_or_of_the_past_is_found(page: int) -> None:
    oracle = Oracle(4, 4 * BS)
    past, other, now = written(oracle, 1), written(oracle, 2), written(oracle, 1)
    here = slice(page * BS, (page + 1) * BS)

    for wrong in (past, other):
        data = now[:]
        data[here] = wrong[here]
        with pytest.raises(VerifyError):
            oracle.check(1, memoryview(data))


def test_touched_blocks_are_those_written_or_checked() -> None:
    oracle = Oracle(1, BS)
    written(oracle, 8)
    oracle.check(2, memoryview(bytes(BS)))
    written(oracle, 2)

    assert list(oracle.touched()) == [8, 2]
