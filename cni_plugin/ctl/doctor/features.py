"""The kernel: whether it can do what configurations and attachments ask of it."""

from __future__ import annotations

from collections.abc import Collection, Iterator

import msgspec

from cni_plugin.backends import contract as backends
from cni_plugin.ctl.doctor.contract import ERROR, NODE, Finding
from cni_plugin.ctl.eyes import Eyes
from cni_plugin.features.masquerade import feature as masquerade
from cni_plugin.kernel.modules import VLAN_FILTERING, modules, remedy

LAYER = NODE
_NEEDED_BY = {
    "bridge": "no pod can be wired without a bridge",
    "veth": "no pod can be wired without veth pairs",
    "nf_tables": "ipMasq is done by nftables",
    "masquerade": "ipMasq is done by nftables, and without it pods do not reach the outside",
    VLAN_FILTERING: "a network asks for VLANs, and its pods would all be in one",
}
_CONFIG = {"masquerade": "CONFIG_NFT_MASQ", VLAN_FILTERING: "CONFIG_BRIDGE_VLAN_FILTERING"}
"""Where it is not called as what it makes possible."""


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """Which of the features that are needed the kernel has."""

    features: dict[str, bool] = {}


def gather(eyes: Eyes) -> Facts:
    """What is needed, and of that what there is."""
    needs = eyes.notes.many("what is needed of the kernel", lambda: _needs(eyes))
    return Facts(features=eyes.notes.one("kernel features", lambda: eyes.host.features(needs)) or {})


def missing_features(facts: Facts) -> Iterator[Finding]:
    """The kernel cannot do what a configuration asks of it."""
    reasons = _between_nodes(backends.names()) | _NEEDED_BY
    for name, there in facts.features.items():
        if not there:
            option = _CONFIG.get(name, f"CONFIG_{name.upper()}")
            yield Finding(
                "missing-feature", ERROR, f"kernel feature {name}", "missing", reasons[name],
                f"{f'{remedy(name)}; or ' if modules(name) else ''}run a kernel with {option} (zgrep {option} "
                "/proc/config.gz)",
            )


def _between_nodes(names: Collection[str]) -> dict[str, str]:
    """What these backends need, and what for; one that there is not needs nothing."""
    found = (backends.find(each) for each in backends.names() if each in names)
    return {need: why for each in found for need, why in each.NEEDS.items()}


def _needs(eyes: Eyes) -> list[str]:
    """What the kernel must be able to do for the configurations and attachments that are here."""
    ours = [each for each in eyes.configs if each.ours]
    between = _between_nodes([*(each.backend for each in eyes.programmed), *(each.backend for each in ours)])
    masquerades = bool(eyes.records.noted(masquerade.NAME, masquerade.CLAIM)) or any(each.masquerade for each in ours)
    vlans = any(each.vlan for each in ours) or any(each.vlan for each in eyes.attachments)
    wanted = {"nf_tables": masquerades, "masquerade": masquerades, VLAN_FILTERING: vlans}
    return ["bridge", "veth", *between, *(name for name, needed in wanted.items() if needed)]


FINDINGS = {missing_features: ("missing-feature",)}
