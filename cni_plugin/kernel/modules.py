"""The kernel's modules that we need, and what to do where one is missing, in the same words wherever that is met.

A small kernel, or one whose rarer modules are in a package of their own, refuses what it has no module for, in words
that name none: "Unknown device type", "No such file or directory".
"""

from __future__ import annotations

import errno

from cni_plugin.model.base import Object

MODULES = {
    "bridge": ("bridge",),
    "veth": ("veth",),
    "vxlan": ("vxlan",),
    "vlan": ("8021q",),
    "nf_tables": ("nf_tables",),
    "masquerade": ("nf_tables", "nft_chain_nat", "nft_masq"),
}
"""By what they make possible; what is not here is made possible by the module that is called so."""
_LINK_MISSING = (errno.EOPNOTSUPP,)
_NFT_MISSING = (errno.ENOENT, errno.EOPNOTSUPP, errno.EPROTONOSUPPORT)


def remedy(what: str) -> str:
    """How to get what makes this possible."""
    names = " ".join(MODULES.get(what, (what,)))
    return (
        f"modprobe -a {names}, and for the next boot in /etc/modules-load.d; where there is no such "
        "module, install the package of the kernel's further ones (Ubuntu: linux-modules-extra-$(uname -r), Fedora and "
        "RHEL: kernel-modules-extra)"
    )


def missing(each: Object, code: int) -> str:
    """What a kernel that refuses to make an object of this kind has no module for, "" when it has."""
    return each.MADE_BY if code in (_NFT_MISSING if each.SPOKEN == "nft" else _LINK_MISSING) else ""
