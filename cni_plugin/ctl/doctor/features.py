"""The kernel: whether it can do what configurations and attachments ask of it."""

from __future__ import annotations

from collections.abc import Collection, Iterator

import msgspec

from cni_plugin.backends import contract as backends
from cni_plugin.ctl.doctor.contract import ERROR, NODE, Finding
from cni_plugin.ctl.eyes import Eyes
from cni_plugin.features import contract as features
from cni_plugin.kernel.modules import VLAN_FILTERING, modules, remedy
from cni_plugin.wirings import contract as wirings

LAYER = NODE
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
    needs = (*(each.NEEDS for each in wirings.every()), *(each.NEEDS for each in features.every()))
    reasons = _between_nodes(backends.names()) | {name: why for each in needs for name, why in each.items()}
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
    noted = (each for each in features.of_node() if eyes.records.noted(each.NAME, each.CLAIM))
    usual = wirings.find(wirings.OURS)
    assert usual is not None
    return [*dict.fromkeys([
        *usual.needed(usual.KEYS()),
        *between,
        *(need for each in ours for need in each.needs),
        *(need for each in noted for need in each.NEEDS),
        *([VLAN_FILTERING] if any(each.vlan for each in eyes.attachments) else ()),
    ])]


FINDINGS = {missing_features: ("missing-feature",)}
