"""What can be wrong with pods, their addresses, and the configurations that they come from.

Each finding is a pure function over the facts; `cni_plugin.ctl.diagnosis` runs them all.
"""

from __future__ import annotations

from collections.abc import Iterator

from cni_plugin.attachment import owner
from cni_plugin.ctl.facts import ERROR, WARNING, Facts, Finding

_WAYS_OUT = "let the runtime collect what is left over (GC), delete pods, or widen ipam.ranges; tullectl ipam check"


def no_configuration(facts: Facts) -> Iterator[Finding]:
    """A runtime finds nothing to start pods with, or nothing of ours."""
    if "configuration" in facts.unknown or any(each.ours for each in facts.configs):
        return
    names = ", ".join(each.path.rpartition("/")[2] for each in facts.configs) or "nothing"
    yield Finding(
        "no-configuration", ERROR, facts.conf_dir, names,
        "no configuration of type tulle is there: "
        + ("pods are wired by another plugin" if facts.configs else "the node stays NotReady and no pod starts"),
        f"scripts/install, or put a conflist such as conf/10-tulle.conflist into {facts.conf_dir}",
    )


def shadowed_configuration(facts: Facts) -> Iterator[Finding]:
    """Runtimes take the first file in the folder."""
    if not facts.configs or facts.configs[0].ours or not any(each.ours for each in facts.configs):
        return
    first = facts.configs[0]
    ours = next(each for each in facts.configs if each.ours)
    yield Finding(
        "shadowed-configuration", ERROR, first.path, ", ".join(first.plugins) or first.problem or "no plugin",
        f"it sorts before {ours.path}, so runtimes use it and not Tulle: new pods are on another network than old ones",
        f"mv {first.path} {first.path}.disabled, or rename ours so that it sorts first",
    )


def bad_configuration(facts: Facts) -> Iterator[Finding]:
    """A file that no runtime can use."""
    for each in facts.configs:
        if each.problem:
            yield Finding(
                "bad-configuration", ERROR if each.ours or each is facts.configs[0] else WARNING, each.path,
                each.problem, "a runtime that picks this file cannot start pods",
                f"correct it: tullectl plan {each.path}",
            )


def unknown_keys(facts: Facts) -> Iterator[Finding]:
    """Keys that nobody reads and that look like one that somebody does."""
    for config in facts.configs:
        for each in config.doubts:
            key, _, says = each.partition(": ")
            yield Finding(
                "unknown-key", WARNING, f"{key} in {config.path}", says,
                "what was probably meant by it is not done, and nothing else will ever say so",
                "write the key as it is called, or remove it",
            )


def pools(facts: Facts) -> Iterator[Finding]:
    """Addresses that are used up, or nearly."""
    for each in facts.pools:
        if each.size and each.used * 10 > each.size * 9:
            full = each.used >= each.size
            yield Finding(
                "pool-exhausted" if full else "pool-nearly-exhausted", ERROR if full else WARNING,
                f"addresses of {each.network} in {each.ranges}", f"{each.used} of {each.size} in use",
                "new pods stay in ContainerCreating: no address is free" if full
                else "soon new pods will not start for want of an address",
                _WAYS_OUT,
            )


def flawed_leases(facts: Facts) -> Iterator[Finding]:
    """Leases without an attachment, damaged ones, attachments without one."""
    for each in facts.flaws:
        damaged = each.problem.startswith("damaged")
        lost = each.problem.startswith("in use")
        name = "damaged-lease" if damaged else "missing-lease" if lost else "leaked-address"
        yield Finding(
            name, ERROR if lost else WARNING, f"lease {each.address} in {each.network}",
            f"{each.container}: {each.problem}" if each.container else each.problem,
            "the address may be given to a second pod" if lost else "the address is lost to new pods until it is freed",
            "delete that pod: its address is not protected" if lost
            else f"let the runtime collect (GC), or: tullectl ipam release {each.network} {each.address}",
        )


def damaged_records(facts: Facts) -> Iterator[Finding]:
    """Records that cannot be read count as none."""
    for path in facts.damaged:
        yield Finding(
            "damaged-record", WARNING, path, "not readable, set aside",
            "what that pod owns is known by its names alone: DEL still works, CHECK and repair do not know it any more",
            f"delete the pod, then: rm '{path}'",
        )


def dead_attachments(facts: Facts) -> Iterator[Finding]:
    """Pods that are gone without a DEL."""
    for pod in facts.pods:
        if pod.state == "dead":
            yield Finding(
                "dead-attachment", WARNING, f"attachment {pod.container} {pod.ifname} in {pod.network}",
                f"its namespace {pod.netns} is gone",
                "the pod ended and nobody told Tulle: its addresses stay taken until it is deleted or collected",
                f"let the runtime remove the sandbox (crictl rmp {pod.container[:12]}) or collect (GC)",
            )


def unplugged(facts: Facts) -> Iterator[Finding]:
    """A record without a veth."""
    for pod in facts.pods:
        if pod.state == "unplugged":
            yield Finding(
                "unplugged", ERROR, f"attachment {pod.container} {pod.ifname} in {pod.network}",
                f"{pod.host_dev} is gone",
                "the pod runs and has no network: somebody deleted its veth", "tullectl repair",
            )


def orphans(facts: Facts) -> Iterator[Finding]:
    """A veth of ours that no record tells of."""
    if "attachments" in facts.unknown:
        return
    known = {each.host_dev for each in facts.pods}
    for link in facts.links:
        who = owner(link.alias) if link.kind == "veth" else None
        if who is not None and link.name not in known:
            yield Finding(
                "orphan", WARNING, f"link {link.name}", link.alias,
                "the veth of a pod that is on no record: a DEL will find nothing to remove, and the port stays taken",
                f"ip link del {link.name}, unless {'its pod' if who.sealed else f'pod {who.container}'} still runs",
            )


def duplicate_addresses(facts: Facts) -> Iterator[Finding]:
    """Two attachments on record with one address."""
    holders: dict[str, list[str]] = {}
    for pod in facts.pods:
        for each in pod.ips:
            holders.setdefault(each.partition("/")[0], []).append(f"{pod.container} {pod.ifname} in {pod.network}")
    for address, who in holders.items():
        if len(who) > 1:
            yield Finding(
                "duplicate-address", ERROR, f"holders of {address}", "; ".join(who),
                "packets for one of these pods reach the other, now and then: connections break at random",
                "delete one of them, and look with tullectl ipam check how its lease was lost",
            )


def vlans_not_kept_apart(facts: Facts) -> Iterator[Finding]:
    """A bridge whose pods are in VLANs, and that does not filter them."""
    vlan = [each for each in facts.pods if each.vlan]
    for bridge in dict.fromkeys(each.bridge for each in vlan):
        link = facts.link(bridge)
        if link is not None and link.vlan_filtering is False:
            yield Finding(
                "vlan-filtering-off", ERROR, f"vlan_filtering of {bridge}", "0",
                "pods that should be kept apart by VLANs see each other",
                f"ip link set {bridge} type bridge vlan_filtering 1",
            )


def bridge_down(facts: Facts) -> Iterator[Finding]:
    """A bridge that pods are on is down or gone."""
    for name in facts.bridges:
        link = facts.link(name)
        if facts.links and (link is None or not link.up):
            yield Finding(
                "bridge-down", ERROR, f"bridge {name}", "gone" if link is None else "down",
                "no pod on it reaches anything", "tullectl repair",
            )
