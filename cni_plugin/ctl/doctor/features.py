"""The kernel: whether it can do what configurations and attachments ask of it."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from cni_plugin.ctl.doctor.contract import ERROR, NODE, Finding
from cni_plugin.ctl.eyes import Eyes
from cni_plugin.kernel.modules import MODULES, remedy
from cni_plugin.kernel.see.probe import VLAN_FILTERING

LAYER = NODE
_NEEDED_BY = {
    "bridge": "no pod can be wired without a bridge",
    "veth": "no pod can be wired without veth pairs",
    "vxlan": "the cluster's backend carries packets between nodes by VXLAN",
    "nf_tables": "ipMasq is done by nftables",
    "masquerade": "ipMasq is done by nftables, and without it pods do not reach the outside",
    "VLAN filtering": "a network asks for VLANs, and its pods would all be in one",
}
_CONFIG = {
    "bridge": "CONFIG_BRIDGE", "veth": "CONFIG_VETH", "vxlan": "CONFIG_VXLAN", "nf_tables": "CONFIG_NF_TABLES",
    "masquerade": "CONFIG_NFT_MASQ", "VLAN filtering": "CONFIG_BRIDGE_VLAN_FILTERING",
}


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """Which of the features that are needed the kernel has."""

    features: dict[str, bool] = {}


def gather(eyes: Eyes) -> Facts:
    """What is needed, and of that what there is."""
    needs = eyes.notes.many("what is needed of the kernel", lambda: _needs(eyes))
    return Facts(features=eyes.notes.one("kernel features", lambda: eyes.host.features(needs)) or {})


def missing_features(facts: Facts) -> Iterator[Finding]:
    """The kernel cannot do what a configuration asks of it."""
    for name, there in facts.features.items():
        if not there:
            yield Finding(
                "missing-feature", ERROR, f"kernel feature {name}", "missing", _NEEDED_BY[name],
                f"{f'{remedy(name)}; or ' if name in MODULES else ''}run a kernel with {_CONFIG[name]} (zgrep "
                f"{_CONFIG[name]} /proc/config.gz)",
            )


def _needs(eyes: Eyes) -> list[str]:
    """What the kernel must be able to do for the configurations and attachments that are here."""
    ours = [each for each in eyes.configs if each.ours]
    tunnels = any(each.backend == "vxlan" for each in eyes.programmed) or any(each.vxlan for each in ours)
    masquerades = bool(eyes.records.masquerades()) or any(each.masquerade for each in ours)
    vlans = any(each.vlan for each in ours) or any(each.vlan for each in eyes.attachments)
    wanted = {"vxlan": tunnels, "nf_tables": masquerades, "masquerade": masquerades, VLAN_FILTERING: vlans}
    return ["bridge", "veth", *(name for name, needed in wanted.items() if needed)]


FINDINGS = {missing_features: ("missing-feature",)}
