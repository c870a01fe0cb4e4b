"""What stands of sets, maps and tables, read once for as long as nobody changes the ruleset.

A few elements are asked for one by one, many by a list of all that is in their set, which is kept. Promise: who asks is
answered in his own words where those mean what stands (`2001:DB8::2` for 2001:db8::2).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from cni_plugin.kernel.nft import nft_sets
from cni_plugin.kernel.nft.known import Known
from cni_plugin.kernel.nft.nft_held import Held, as_wanted
from cni_plugin.kernel.nft.nft_raw import RawNft
from cni_plugin.kernel.nft.nft_sets import Contents, Kind, Place
from cni_plugin.model.base import Key
from cni_plugin.model.nft import Element, Map, Set, SetOrMap, Table

_FEW = 32
"""Elements that are asked for one by one: a list of 50,000 takes as long as some 10,000 of these."""
_TRIES = 5
_T = TypeVar("_T")


class Sets:
    """All calls raise OSError where the kernel refuses, ValueError for what is of no type that is known here."""

    def __init__(self, raw: RawNft, known: Known) -> None:
        self._raw = raw
        self._known = known

    def table(self, want: Table) -> Table | None:
        """It, if it stands."""
        return want if nft_sets.table_stands(self._raw, want.name) else None

    def named(self, want: SetOrMap) -> SetOrMap | None:
        """The set or map of this name."""
        kind = self.kind((want.table, want.name))
        if kind is None:
            return None
        if kind.data:
            return Map(want.name, kind.type, kind.interval, want.table, data=kind.data)
        return Set(want.name, kind.type, kind.interval, want.table)

    def kind(self, place: Place) -> Kind | None:
        """What a set or map holds; None without one."""
        return nft_sets.described(self._raw, place)

    def among(self, place: Place, wanted: Sequence[Element]) -> list[Element]:
        """Those of these that are in it."""
        held = self._remembered(place)
        kind = self.kind(place) if held is None else held.kind
        if kind is None:
            return []
        if held is None and not kind.interval and len(wanted) <= _FEW:
            alone = ((each, nft_sets.element(self._raw, place, kind, each.value)) for each in wanted)
            return [as_wanted(kind, each, data) for each, data in alone if data is not None]
        held = held or self._listed(place, kind)
        return [found for each in wanted if (found := held.find(each)) is not None]

    def whole(self, place: Place) -> Contents:
        """All that is in it, nothing without it."""
        held = self._remembered(place)
        if held is None and (kind := self.kind(place)) is not None:
            held = self._listed(place, kind)
        return held.values if held is not None else {}

    def _remembered(self, place: Place) -> Held | None:
        return self._known.at(self._raw.generation()).contents.get(_key(place)) if self._known.contents else None

    def _listed(self, place: Place, kind: Kind) -> Held:
        generation = self._raw.generation()  # before the list: a change in between makes the next reader list again
        held = Held(kind, _again(lambda: nft_sets.elements(self._raw, place, kind)))
        if generation:
            self._known.at(generation).contents[_key(place)] = held
        return held


def _again(look: Callable[[], _T]) -> _T:
    """What is said when nobody changes anything meanwhile."""
    for left in reversed(range(_TRIES)):
        try:
            return look()
        except InterruptedError:
            if not left:
                raise
    raise AssertionError("the last try raises")


def _key(place: Place) -> Key:
    table, name = place
    return Set(name, "", table=table).key
