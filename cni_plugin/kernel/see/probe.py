"""Whether a kernel can do what Tulle needs, without changing the node to find out.

First it is asked: a module that is loaded, built in or lies ready on the disk (/proc/modules, modules.builtin,
modules.dep) is there. What none of them names is tried in a fresh network namespace that goes at once: nothing can be
loaded by that, for there is nothing to load, and nothing of the node is touched.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Collection, Mapping

from cni_plugin.kernel.host.files import follow
from cni_plugin.kernel.host.netns import in_a_fresh_one
from cni_plugin.kernel.modules import VLAN_FILTERING, modules
from cni_plugin.kernel.nft.nft import Nft
from cni_plugin.kernel.rtnl.codec import NLM_F_CREATE, NLM_F_EXCL, RTM_NEWLINK, Attr, encode, nest
from cni_plugin.kernel.rtnl.namespace import Namespace


def features(wanted: Collection[str]) -> dict[str, bool]:
    """Which of these the kernel has: kinds of links, as `ip link` calls them, nf_tables, masquerade, VLAN filtering.

    Raises OSError when it cannot be found out (EPERM without CAP_SYS_ADMIN).
    """
    listed = _listed(os.uname().release)
    asked = {name: bool(needed) and listed.issuperset(needed) for name in wanted for needed in [modules(name)]}
    left = [name for name, there in asked.items() if not there]
    if not left:
        return asked
    with in_a_fresh_one():
        space = Namespace()
        try:
            return asked | {name: _try(space, name) for name in left}
        finally:
            space.close()


def _listed(release: str) -> set[str]:
    """The modules that are loaded or can be: their names, '-' as '_'."""
    found: set[str] = set()
    for path in ("/proc/modules", *(f"/lib/modules/{release}/modules.{each}" for each in ("builtin", "dep"))):
        try:
            lines = follow(path).decode(errors="replace").splitlines()
        except OSError:
            continue
        words = (line.split()[0].rstrip(":").rpartition("/")[2] for line in lines if line.strip())
        found.update(each.split(".ko")[0].replace("-", "_") for each in words)
    return found


def _try(space: Namespace, what: str) -> bool:
    return _TRIALS[what](space) if what in _TRIALS else _can_make(space, what)


def _can_make(space: Namespace, kind: str, *data: Attr, name: str = "") -> bool:
    """Whether there is such a kind: of one that wants more than a name the kernel says so (rtnl_newlink)."""
    info: list[Attr] = [("IFLA_INFO_KIND", kind)]
    if data:
        info.append(("IFLA_INFO_DATA", nest(*data)))
    attrs: list[Attr] = [("IFLA_IFNAME", name or f"try-{kind}"), ("IFLA_LINKINFO", nest(*info))]
    (outcome,) = space.netlink.send([encode(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, {"family": 0}, attrs)])
    return outcome.errno in (0, errno.EINVAL)


def _filters(space: Namespace) -> bool:
    """A kernel without it takes the wish and forgets it (net/bridge/br_netlink.c)."""
    _can_make(space, "bridge", ("IFLA_BR_VLAN_FILTERING", 1), name="try-vlans")
    link = space.link("try-vlans")
    return link is not None and link.number("IFLA_LINKINFO", "IFLA_INFO_DATA", "IFLA_BR_VLAN_FILTERING") == 1


def _accepts(rule: str) -> bool:
    nft = Nft()
    accepted, _ = nft.run(
        "add table inet try\n"
        "add chain inet try post { type nat hook postrouting priority 100; }\n"
        f"add rule inet try post {rule}"
    )
    nft.close()
    return accepted


_TRIALS: Mapping[str, Callable[[Namespace], bool]] = {
    "nf_tables": lambda _: _accepts("accept"),
    "masquerade": lambda _: _accepts("masquerade"),
    VLAN_FILTERING: _filters,
}
