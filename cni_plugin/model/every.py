"""Every kind of object there is: what can be read back of what was stored.

To those who read, an `AnyObject` is an `Object`; only a decoder asks which there are. A file of this package whose
kinds are to be found is imported here.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, TypeAlias, Union

from cni_plugin.model import host, layer3, links, nft
from cni_plugin.model.base import Object

_FILES = (links, layer3, host, nft)


def kinds(base: type[Object] = Object) -> Iterator[type[Object]]:
    """The kinds, those that only others are made of left out."""
    for each in base.__subclasses__():
        yield from kinds(each) if each.__subclasses__() else (each,)


if TYPE_CHECKING:
    AnyObject: TypeAlias = Object
else:
    AnyObject = Union[tuple(kinds())]  # noqa: UP007 (a union of what is only known now)
