"""What another backend promised a frontend that is connected still; whoever goes on for it has to keep that."""

import dataclasses

from xenblk.blkback.frontend_keys import FrontendKeys, parse_uint, read_keys
from xenblk.blkback.offers import Offer, transport_nodes
from xenblk.blkback.parameters import QUEUES_MAX, BackendParameters
from xenblk.blkif import BLKIF_MAX_INDIRECT_SEGMENTS
from xenblk.ring import MAX_RING_PAGE_ORDER
from xenblk.xenstore.client import XenstoreTransaction


def read_promise(
    transaction: XenstoreTransaction, path: str, frontend_path: str, parameters: BackendParameters
) -> tuple[Offer, FrontendKeys]:
    """What the other backend offered, by its nodes at `path`, and what the frontend made of it.

    FrontendKeyError for what no backend of ours offered.
    """
    offered = {key: transaction.read(f"{path}/{key}", "0") for key in transport_nodes(parameters)}

    def number(key: str, most: int) -> int:
        return parse_uint(key, offered[key], most)

    limits = dataclasses.replace(
        parameters,
        max_queues=max(1, number("multi-queue-max-queues", QUEUES_MAX)),
        max_ring_page_order=number("max-ring-page-order", MAX_RING_PAGE_ORDER),
    )
    promise = Offer(
        # A page that is not kept mapped, though it may be, does no frontend harm.
        persistent=offered["feature-persistent"] == "1" and parameters.offers_persistent,
        max_indirect_segments=number("feature-max-indirect-segments", BLKIF_MAX_INDIRECT_SEGMENTS),
    )
    return promise, read_keys(transaction, frontend_path, limits)
