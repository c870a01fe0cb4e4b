"""What is in a set or map, as it was read: found in whatever spelling it is asked for.

Promise: who asks is answered in his own words where those mean what stands (`2001:DB8::2` for 2001:db8::2).
"""

from __future__ import annotations

from msgspec import structs

from cni_plugin.kernel.nft import nft_values
from cni_plugin.kernel.nft.nft_sets import Contents, Kind
from cni_plugin.model.base import Verb
from cni_plugin.model.nft import Element


class Held:
    """What is in a set or map: by value what that leads to, "" in a set."""

    def __init__(self, kind: Kind, values: Contents) -> None:
        self.kind = kind
        self.values = values
        self._packed, self._words = nft_values.packer(kind.type), nft_values.reader(kind.type)

    def find(self, want: Element) -> Element | None:
        """It as it stands. Raises ValueError."""
        data = self.values.get(self._spelt(want))
        return None if data is None else as_wanted(self.kind, want, data)

    def has(self, each: Element) -> bool:
        """Whether its value is there. Raises ValueError."""
        return self._spelt(each) in self.values

    def take(self, verb: Verb, each: Element) -> None:
        """It was added, changed or deleted. Raises ValueError."""
        if verb == "delete":
            self.values.pop(self._spelt(each), None)
        else:
            self.values[self._spelt(each)] = _data_spelt(self.kind, each.data)

    def _spelt(self, each: Element) -> str:
        return self._words(self._packed(each.value))


def as_wanted(kind: Kind, want: Element, data: str) -> Element:
    """An element as it was found, in its own words where what it leads to is what those mean. Raises ValueError."""
    same = data == want.data or (want.data and _data_spelt(kind, want.data) == data)
    return want if same else structs.replace(want, data=data)


def _data_spelt(kind: Kind, data: str) -> str:
    return nft_values.data_reader(kind.data)(nft_values.data_packer(kind.data)(data)) if kind.data else ""
