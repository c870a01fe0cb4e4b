"""The kernel's modules that we need, and what to do where one is missing, in the same words wherever that is met.

A small kernel, or one whose rarer modules are in a package of their own, refuses what it has no module for, in words
that name none: "Unknown device type", "No such file or directory".
"""

from __future__ import annotations

import errno

from cni_plugin.model.base import Object

VLAN_FILTERING = "VLAN filtering"
_OTHERWISE = {
    "vlan": ("8021q",),
    "masquerade": ("nf_tables", "nft_chain_nat", "nft_masq"),
    VLAN_FILTERING: (),
}
"""What is not made possible by the one module that is called so; () for what a module was built with or without."""
_LINK_MISSING = (errno.EOPNOTSUPP,)
_NFT_MISSING = (errno.ENOENT, errno.EOPNOTSUPP, errno.EPROTONOSUPPORT)


def modules(what: str) -> tuple[str, ...]:
    """Those that make this possible: a kind of link, as `ip link` calls it, or what `see.probe` has a trial for."""
    return _OTHERWISE.get(what, (what,))


def remedy(what: str) -> str:
    """How to get what makes this possible."""
    return (
        f"modprobe -a {' '.join(modules(what))}, and for the next boot in /etc/modules-load.d; where there is no such "
        "module, install the package of the kernel's further ones (Ubuntu: linux-modules-extra-$(uname -r), Fedora and "
        "RHEL: kernel-modules-extra)"
    )


def missing(each: Object, code: int) -> str:
    """What a kernel that refuses to make an object of this kind has no module for, "" when it has."""
    return each.MADE_BY if code in (_NFT_MISSING if each.SPOKEN == "nft" else _LINK_MISSING) else ""
