"""What stands in the kernel, as the objects of the model, at the keys that somebody asks about.

Each kind reads its own (`kinds`). Where the kernel tells the same thing in other words (another spelling of an address,
its own default metric) the object comes back as it was wanted, so that comparing the two finds differences and nothing
else.
"""

from __future__ import annotations

from collections.abc import Iterable

from cni_plugin.diff import Op
from cni_plugin.kernel.errors import KernelError
from cni_plugin.kernel.kinds import kind_of
from cni_plugin.kernel.nft.nft import Nft, NftError
from cni_plugin.kernel.rtnl.lookup import Lookup
from cni_plugin.model.base import Object, State, state
from cni_plugin.model.nft import Chain, Element, NftObject, Set


class Reader:
    """One call of `read`. What was looked up once is not looked up again."""

    def __init__(self, look: Lookup, nft: Nft) -> None:
        self._look = look
        self._nft = nft

    def read(self, wanted: Iterable[Object]) -> State:
        """Those of the wanted that are there, as they are. Raises KernelError where something else bears the name."""
        return state(found for each in wanted if (found := self._one(each)) is not None)

    def _one(self, want: Object) -> Object | None:
        if want.where not in self._look.spaces:
            return None
        if isinstance(want, NftObject):
            return self._nftables(want)
        return kind_of(type(want)).read(want, self._look)

    def _nftables(self, want: NftObject) -> NftObject | None:
        try:
            if isinstance(want, Chain):
                return self._nft.read(want)
            if isinstance(want, Set):
                return self._nft.read_set(want.name)
            if isinstance(want, Element):
                return want if want.value in self._nft.elements(want.set) else None
            raise TypeError(f"{want!r} is nothing of nft's")
        except NftError as error:
            raise KernelError(Op("create", want), error.errno, (), str(error)) from error


def elements_of(nft: Nft, name: str) -> frozenset[str]:
    """What is in a set, nothing without it. Raises KernelError."""
    try:
        return nft.elements(name)
    except NftError as error:
        raise KernelError(Op("create", Set(name, "")), error.errno, (), str(error)) from error
