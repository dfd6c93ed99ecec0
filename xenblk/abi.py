"""Numbers that every layer shares: page and sector size, and the kinds of number that a domain deals in."""

from typing import Final, NewType

Domid = NewType("Domid", int)
GrantRef = NewType("GrantRef", int)
EvtchnPort = NewType("EvtchnPort", int)

PAGE_SIZE: Final = 4096
PAGE_SHIFT: Final = 12

SECTOR_SIZE: Final = 512
"""Unit of sector_number, first_sect, last_sect and the node `sectors`, whatever `sector-size` says (io/blkif.h)."""

SECTORS_PER_PAGE: Final = PAGE_SIZE // SECTOR_SIZE

DOM0: Final = Domid(0)
DOMID_FIRST_RESERVED: Final = 0x7FF0
"""Domain numbers from here on mean something else than a domain (xen.h)."""

BLKIF_MAX_SEGMENTS_PER_REQUEST: Final = 11
