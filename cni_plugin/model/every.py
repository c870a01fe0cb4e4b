"""Every kind of object there is: what can be read back of what was stored.

To those who read, an `AnyObject` is an `Object`; only a decoder asks which there are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from cni_plugin.model.base import Object
from cni_plugin.model.host import Feature, Sysctl
from cni_plugin.model.layer3 import Addr, Neigh, Route
from cni_plugin.model.links import Fdb, LinkObject, Port, PortVlan, Up
from cni_plugin.model.nft import NftObject

if TYPE_CHECKING:
    AnyObject: TypeAlias = Object
else:
    AnyObject = LinkObject | Up | Port | PortVlan | Sysctl | Feature | Addr | Route | Neigh | Fdb | NftObject
