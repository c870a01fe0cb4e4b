"""What stands in the kernel, as the objects of the model, at the keys that somebody asks about.

Each kind reads its own (`kinds`). Where the kernel tells the same thing in other words (another spelling of an address,
its own default metric) the object comes back as it was wanted, so that comparing the two finds differences and nothing
else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial

from cni_plugin.diff import Op
from cni_plugin.kernel.errors import KernelError
from cni_plugin.kernel.kinds import kind_of
from cni_plugin.kernel.nft.nft import Nft, NftError
from cni_plugin.kernel.rtnl.lookup import Lookup
from cni_plugin.model.base import Object, State, state
from cni_plugin.model.nft import NftObject, Set


class Reader:
    """One call of `read`. What was looked up once is not looked up again."""

    def __init__(self, look: Lookup, nft: Nft) -> None:
        self._look = look
        self._nft = nft

    def read(self, wanted: Iterable[Object]) -> State:
        """Those of the wanted that are there, as they are. Raises KernelError where something else bears the name."""
        theirs = list[NftObject]()
        found = list[Object | None]()
        for each in wanted:
            if isinstance(each, NftObject):
                theirs.append(each)
            elif each.where in self._look.spaces:
                found.append(kind_of(type(each)).read(each, self._look))
        found += _answered(partial(self._nft.read, theirs), theirs[0]) if theirs else ()
        return state(each for each in found if each is not None)


def elements_of(nft: Nft, name: str, table: str) -> State:
    """What is in a set or map, nothing without it. Raises KernelError."""
    return state(_answered(partial(nft.elements, table, name), Set(name, "", table=table)))


def _answered(ask: Callable[[], Sequence[NftObject]], about: NftObject) -> Sequence[NftObject]:
    try:
        return ask()
    except NftError as error:
        raise KernelError(Op("create", about), error.errno, (), str(error)) from error
