"""What a backend offers, for as long as it does not refuse it."""

from typing import Any

from xenblk._native import ffi


class Features:
    """The backend's nodes `feature-flush-cache`, `feature-barrier`, `feature-discard` and `discard-secure`, as 0 or 1.

    All rings of a disk share one: what the backend refuses on one of them, its engine withdraws here for all. `native`
    is the same for a native engine: a `struct xb_front_features` (engine.h).
    """

    def __init__(
        self, *, flush_cache: bool = True, barrier: bool = False, discard: bool = False, discard_secure: bool = False
    ) -> None:
        self.native: Any = ffi.new("struct xb_front_features *", [flush_cache, barrier, discard, discard_secure])

    def __repr__(self) -> str:
        offered = [name for name, _type in ffi.typeof("struct xb_front_features").fields if getattr(self.native, name)]
        return f"<Features {' '.join(offered) or 'none'}>"

    @property
    def flush_cache(self) -> bool:
        """Whether FLUSH_DISKCACHE may be asked for."""
        return bool(self.native.flush_cache)

    @property
    def barrier(self) -> bool:
        """Whether WRITE_BARRIER may be asked for."""
        return bool(self.native.barrier)

    @property
    def discard(self) -> bool:
        """Whether DISCARD may be asked for."""
        return bool(self.native.discard)

    @property
    def discard_secure(self) -> bool:
        """Whether a DISCARD may ask for the data to be erased."""
        return bool(self.native.discard_secure)

    def withdraw(self, *names: str) -> None:
        """The backend refused these: they are not asked for again."""
        for name in names:
            setattr(self.native, name, 0)
