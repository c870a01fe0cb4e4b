"""Every kind of object there is: what can be read back of what was stored.

To those who read, an `AnyObject` is an `Object`; only a decoder asks which there are. A file of this package whose
kinds are to be found is imported here.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, TypeAlias, TypeVar, Union

from cni_plugin.model import host, layer3, links, nft
from cni_plugin.model.base import Object
from cni_plugin.model.links import Tunnel

_Kind = TypeVar("_Kind", bound=Object)
_FILES = (links, layer3, host, nft)


def kinds(base: type[_Kind]) -> Iterator[type[_Kind]]:
    """The kinds, those that only others are made of left out."""
    for each in base.__subclasses__():
        yield from kinds(each) if each.__subclasses__() else (each,)


def tunnel(name: str, alias: str) -> Tunnel | None:
    """The tunnel's device that a link is by our mark, of which no more is known; None for any other link."""
    return next((each(name) for each in kinds(Tunnel) if each.mark() == alias), None)


if TYPE_CHECKING:
    AnyObject: TypeAlias = Object
else:
    AnyObject = Union[tuple(kinds(Object))]  # noqa: UP007 (a union of what is only known now)
