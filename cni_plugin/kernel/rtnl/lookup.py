"""What the kinds ask of the kernel to tell what stands, each thing once however many of them want to know.

One look-up a link serves everything that is wanted of that link; lists are filtered by the kernel (strict checking,
Linux 4.20). A `Lookup` is as old as the call of `read` that it is made for.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Any, TypeVar

from cni_plugin.diff import Op
from cni_plugin.kernel.errors import KernelError
from cni_plugin.kernel.rtnl import codec
from cni_plugin.kernel.rtnl.codec import Attr, Message
from cni_plugin.kernel.rtnl.namespace import Namespace
from cni_plugin.model.base import HOST, POD
from cni_plugin.model.links import Link

INFO, DATA, KIND = "IFLA_LINKINFO", "IFLA_INFO_DATA", "IFLA_INFO_KIND"

_T = TypeVar("_T")


class Lookup:
    """The namespaces that can be asked, `HOST` and maybe `POD`, and what they said."""

    def __init__(self, host: Namespace, pod: Namespace | None = None) -> None:
        self.spaces = {HOST: host} if pod is None else {HOST: host, POD: pod}
        self._links: dict[tuple[str, str], Message | None] = {}
        self._known: dict[tuple[str, ...], Any] = {}

    def link(self, ns: str, name: str) -> Message | None:
        """The link of this name."""
        key = (ns, name)
        if key not in self._links:
            self._links[key] = self.spaces[ns].link(name)
        return self._links[key]

    def link_of_kind(self, want: Link) -> Message | None:
        """The link that is wanted. Raises KernelError (EEXIST) where one of another kind bears its name."""
        kind, link = want.MADE_BY, self.link(want.where, want.name)
        have = link.text(INFO, KIND) if link else kind
        if have != kind:
            reason = f"a link of that name exists already and is no {kind} ({have or 'hardware or loopback'})"
            raise KernelError(Op("create", want), errno.EEXIST, (), reason)
        return link

    def name(self, index: int) -> str:
        """The name of the node's link of this number, "" when there is none."""
        return self.spaces[HOST].name(index)

    def neighbour(self, fields: dict[str, int], attrs: list[Attr]) -> Message | None:
        """The node's neighbour or forwarding entry of this key (RTM_GETNEIGH); none without the link."""
        if not fields["ifindex"]:
            return None
        return self.spaces[HOST].netlink.ask(codec.encode(codec.RTM_GETNEIGH, 0, fields, attrs))

    def once(self, key: tuple[str, ...], ask: Callable[[], _T]) -> _T:
        """What `ask` says, which is asked only the first time that this key is."""
        if key not in self._known:
            self._known[key] = ask()
        known: _T = self._known[key]
        return known
