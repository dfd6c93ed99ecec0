"""blkif's structures against bytes that a C compiler made of the public header, both ways, for both layouts."""

import json
from pathlib import Path

import pytest

from xenblk.abi import GrantRef
from xenblk.blkif import (
    ABIS,
    BLKIF_DISCARD_SECURE,
    Abi,
    BlkifOp,
    BlkifRequest,
    BlkifResponse,
    BlkifSegment,
    BlkifStatus,
    DiscardRequest,
    IndirectRequest,
)

VECTORS = json.loads(Path(__file__).with_name("blkif.json").read_text())["vectors"]
ID, SECTOR, HANDLE = 0x1122334455667788, 0x0102030405060708, 0xCA00
SEGMENTS = (BlkifSegment(GrantRef(0xA1B2C3D4), 1, 6), BlkifSegment(GrantRef(8), 0, 7))
GREFS = tuple(GrantRef(gref) for gref in (0xA1B2C3D4, 9, 0, 0, 0, 0, 0, 0))

MEANING = {
    "write, 2 segments": BlkifRequest(BlkifOp.WRITE, HANDLE, ID, SECTOR, 2, SEGMENTS),
    "discard, secure": DiscardRequest(HANDLE, ID, SECTOR, 0x800, BLKIF_DISCARD_SECURE),
    "indirect read, 256 segments": IndirectRequest(BlkifOp.READ, HANDLE, ID, SECTOR, 256, GREFS),
    "response to a discard, EOPNOTSUPP": BlkifResponse(ID, BlkifOp.DISCARD, BlkifStatus.EOPNOTSUPP),
}
CASES = [
    pytest.param(abi, MEANING[vector["case"]], bytes.fromhex(vector[protocol]), id=f"{vector['case']}, {protocol}")
    for vector in VECTORS
    for protocol, abi in ABIS.items()
]


def test_every_structure_has_its_vectors() -> None:
    assert {vector["case"] for vector in VECTORS} == set(MEANING)


@pytest.mark.parametrize(("abi", "meaning", "start"), CASES)
def test_packs_to_the_bytes(
    abi: Abi, meaning: BlkifRequest | DiscardRequest | IndirectRequest | BlkifResponse, start: bytes
) -> None:
    packed = abi.pack_response(meaning) if isinstance(meaning, BlkifResponse) else abi.pack_request(meaning)
    assert packed == start.ljust(abi.entry_size, b"\0")


@pytest.mark.parametrize(("abi", "meaning", "start"), CASES)
def test_parses_from_the_bytes(
    abi: Abi, meaning: BlkifRequest | DiscardRequest | IndirectRequest | BlkifResponse, start: bytes
) -> None:
    slot = start.ljust(abi.entry_size, b"\xaa")  # garbage behind the structure is nobody's business
    parse = abi.parse_response if isinstance(meaning, BlkifResponse) else abi.parse_request
    assert parse(slot) == meaning
