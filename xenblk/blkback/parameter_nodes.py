"""A backend's parameters in xenstore, where an operator reads and writes them while it runs.

    /local/domain/BACKEND/data/xenblk/parameters/TYPE/NAME    as /sys/module/xen_blkback/parameters/NAME of Linux

TYPE tells the backends of a domain apart, as in their devices' paths: vbd, unless another one was asked for. A backend
writes its own when it starts, and removes them when it stops. A value that it refuses it writes over with the one that
stays in force.
"""

import logging
from typing import Final

from xenblk.abi import DOM0, Domid
from xenblk.blkback.parameters import BackendParameters
from xenblk.errors import HostError, UsageError, XenstoreError
from xenblk.toolstack import BACKEND_TYPE
from xenblk.xenstore.client import Xenstore, XenstoreTransaction

_log: Final = logging.getLogger("xenblk.blkback")


def parameters_path(backend: Domid, backend_type: str = BACKEND_TYPE) -> str:
    """The directory of the nodes."""
    return f"/local/domain/{backend}/data/xenblk/parameters/{backend_type}"


class ParameterNodes:
    """The backend's side. All calls come from the thread that has the store; the parameters may change at any time."""

    def __init__(
        self, store: Xenstore, backend: Domid, parameters: BackendParameters, backend_type: str = BACKEND_TYPE
    ) -> None:
        self.path: Final = parameters_path(backend, backend_type)
        self._nr_parents = 3 if backend == DOM0 else 2  # a guest's `data` is its toolstack's
        self._store = store
        self._parameters = parameters
        self._shown: dict[str, str] = {}

    def show(self) -> None:
        """Write what changed since the last time; nothing, and no more than a look, if nothing did."""
        values = self._parameters.changeable()
        if values != self._shown:
            changed = {name: value for name, value in values.items() if self._shown.get(name) != value}
            self._shown = values
            try:
                self._store.transact(lambda transaction: self._write(transaction, changed))
            except XenstoreError as e:  # a driver domain that may not write there serves all the same
                _log.warning("the backend's parameters cannot be shown: %s", e)

    def _write(self, transaction: XenstoreTransaction, values: dict[str, str]) -> None:
        for name, value in values.items():
            transaction.write(f"{self.path}/{name}", value)

    def changed(self, path: str) -> None:
        """An event: do what somebody wrote, or write over it what stays. Our own writing changes nothing."""
        name = path.removeprefix(f"{self.path}/")
        if name not in self._shown:
            return
        text = self._store.read(path, "")
        if text == self._shown[name]:
            return
        try:
            self._parameters.change(name, text)
            _log.info("%s is %s now", name, text)
        except UsageError as e:
            _log.warning("%s: %s", path, e)
        del self._shown[name]
        self.show()

    def remove(self) -> None:
        """Nobody heeds them any more."""
        self._store.prune(self.path, self._nr_parents)


def read_parameters(store: Xenstore, backend: Domid, backend_type: str = BACKEND_TYPE) -> dict[str, str]:
    """The parameters of a running backend; HostError if there is none."""
    path = parameters_path(backend, backend_type)
    try:
        return {name: store.read(f"{path}/{name}") for name in sorted(store.directory(path))}
    except XenstoreError:
        who = f"domain {backend}" if backend_type == BACKEND_TYPE else f"domain {backend}, type {backend_type}"
        raise HostError("ENOENT", f"no backend serves {who}: start `xenblk backend`") from None


def write_parameter(store: Xenstore, backend: Domid, name: str, text: str, backend_type: str = BACKEND_TYPE) -> None:
    """Change a parameter of a running backend. UsageError, and nothing changes, if it would refuse that; HostError."""
    BackendParameters().change(name, text)
    read_parameters(store, backend, backend_type)
    store.write(f"{parameters_path(backend, backend_type)}/{name}", text)
