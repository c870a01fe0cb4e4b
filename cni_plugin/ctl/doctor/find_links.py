"""What can be wrong with links: MTUs, MACs, other programs that manage them, a bridge with too many ports.

Each finding is a pure function over the facts; `cni_plugin.ctl.diagnosis` runs them all.
"""

from __future__ import annotations

from collections.abc import Iterator
from fnmatch import fnmatchcase

from cni_plugin.ctl.facts import ERROR, HINT, UNKNOWN, WARNING, Facts, File, Finding
from cni_plugin.marks import MOST_PORTS

MANY_PORTS = 900
_SET = 3


def mtu_too_large(facts: Facts) -> Iterator[Finding]:
    """A packet that fits a pod's link does not fit the way out."""
    for limit in facts.limits:
        # a network without gateways is switched on its bridge and does not leave by the uplink
        pods = [each for each in facts.pods if each.network == limit.network and each.gateways]
        names = [limit.device, *(each.bridge for each in pods), *(each.host_dev for each in pods)]
        links = [link for name in dict.fromkeys(names) if name and (link := facts.link(name))]
        wrong = [each for each in links if limit.mtu and each.mtu > limit.most]
        if wrong:
            around = f" less {limit.overhead} for the tunnel" if limit.overhead else ""
            others = f" (and {len(wrong) - 1} more links)" if len(wrong) > 1 else ""
            yield Finding(
                "mtu-too-large", WARNING, f"mtu of {wrong[0].name}{others}",
                f"{wrong[0].mtu}; {limit.uplink} has {limit.mtu}{around}",
                "small packets pass and large ones vanish: ping works, downloads and TLS handshakes hang",
                f'set "mtu": {limit.most} in the configuration (or remove it) and start the pods anew; now: '
                + "; ".join(f"ip link set {each.name} mtu {limit.most}" for each in wrong[:3]),
            )


def mtu_differs(facts: Facts) -> Iterator[Finding]:
    """The two ends of a pod's wire, or the bridge between them, disagree."""
    for pod in facts.pods:
        link, bridge = facts.link(pod.host_dev), facts.link(pod.bridge)
        if link is None or bridge is None:
            continue
        ends = {f"bridge {bridge.name}": bridge.mtu, link.name: link.mtu}
        ends |= {f"{pod.ifname} in {pod.container}": pod.mtu} if pod.mtu else {}
        if len(set(ends.values())) > 1:
            least = min(ends.values())
            yield Finding(
                "mtu-differs", WARNING, f"mtu of {link.name}", ", ".join(f"{key} {each}" for key, each in ends.items()),
                "frames larger than the narrowest of them are dropped without a word: large transfers of this pod hang",
                f"ip link set {link.name} mtu {least}; ip link set {bridge.name} mtu {least}; "
                f"nsenter --net={pod.netns} ip link set {pod.ifname} mtu {least}",
            )


def mac_not_set(facts: Facts) -> Iterator[Finding]:
    """A MAC that nobody set is one that udev sets."""
    unseen = [each.name for each in facts.links if each.name in facts.own and each.assigned == -1]
    if unseen:
        yield Finding(
            "not-known", UNKNOWN, f"addr_assign_type of {unseen[0]}",
            f"/sys shows another network namespace ({len(unseen)} links)",
            "whether these links' MACs were set, so that systemd-udevd leaves them, could not be found out",
            "run tullectl where /sys belongs to the node: ip netns exec mounts it anew, nsenter --net does not",
        )
    for each in facts.links:
        if each.name in facts.own and each.assigned not in (-1, _SET):
            yield Finding(
                "mac-not-set", WARNING, f"addr_assign_type of {each.name}", str(each.assigned),
                "systemd-udevd may give this link another MAC (MACAddressPolicy=persistent), and whoever knows the old "
                "one sends into the void",
                f"ip link set {each.name} address {each.mac}",
            )


def mac_policy(facts: Facts) -> Iterator[Finding]:
    """systemd's default gives new links a MAC of its own; ours are set at creation, so it leaves them."""
    for dev in ("tulle0", "tulle.1", "tl0123456789a"):
        rule = next((each for each in facts.link_files if _matches(each, dev)), None)
        if rule is not None and _value(rule, "MACAddressPolicy") == "persistent":
            yield Finding(
                "mac-policy", HINT, rule.path, "MACAddressPolicy=persistent",
                "systemd-udevd changes the MAC of new virtual links; it leaves ours, whose MAC is set, but not the "
                "bridges and links that other programs make",
                "a file /etc/systemd/network/10-tulle.link with [Match] OriginalName=tulle* tl* and "
                "[Link] MACAddressPolicy=none",
            )
            return


def foreign_routes(facts: Facts) -> Iterator[Finding]:
    """systemd-networkd removes routes that it did not make when an interface bounces or it is started again."""
    if facts.networkd is None:
        return
    said = [value for each in facts.networkd if (value := _value(each, "ManageForeignRoutes"))]
    value = said[-1] if said else "yes, the default"
    if value.lower() not in ("no", "false", "off", "0", "n", "f"):
        yield Finding(
            "manage-foreign-routes", WARNING, "ManageForeignRoutes of systemd-networkd", value,
            "systemd-networkd removes the routes to other nodes' pods when an interface bounces or it is restarted: "
            "pods of other nodes are away until somebody puts the routes back",
            r"printf '[Network]\nManageForeignRoutes=no\n' >/etc/systemd/networkd.conf.d/tulle.conf; "
            "systemctl restart systemd-networkd",
        )


def network_manager(facts: Facts) -> Iterator[Finding]:
    """NetworkManager takes care of a link of ours."""
    managed = [each for each in facts.managed if each in facts.own]
    if managed:
        yield Finding(
            "network-manager", WARNING, "managed by NetworkManager", ", ".join(managed[:5]),
            "NetworkManager may take addresses, routes and the link itself down when it thinks it is not needed",
            r"printf '[keyfile]\nunmanaged-devices=interface-name:tulle*;interface-name:tl*\n' "
            ">/etc/NetworkManager/conf.d/tulle.conf; systemctl reload NetworkManager",
        )


def many_ports(facts: Facts) -> Iterator[Finding]:
    """A Linux bridge has room for 1,023 ports."""
    for bridge in facts.bridges:
        count = sum(each.master == bridge for each in facts.links)
        if count >= MANY_PORTS:
            yield Finding(
                "many-ports", ERROR if count >= MOST_PORTS else WARNING, f"ports of {bridge}",
                f"{count} of {MOST_PORTS}",
                "a Linux bridge holds 1,023 ports: the next pods on this node "
                + ("cannot be started" if count >= MOST_PORTS else "will soon not start any more"),
                "lower the kubelet's maxPods, or give a second network a bridge of its own",
            )


def _matches(file: File, dev: str) -> bool:
    """Whether a .link file is for a link of this name: by OriginalName alone, other conditions name hardware."""
    section, conditions = "", {}
    for line in file.text.splitlines():
        text = line.strip()
        if text.startswith("["):
            section = text
        elif section == "[Match]" and "=" in text and not text.startswith(("#", ";")):
            key, _, value = text.partition("=")
            conditions[key.strip()] = value.split()
    return set(conditions) == {"OriginalName"} and any(fnmatchcase(dev, each) for each in conditions["OriginalName"])


def _value(file: File, key: str) -> str:
    lines = (line.strip() for line in file.text.splitlines())
    found = [line.partition("=")[2].strip() for line in lines if line.partition("=")[0].strip() == key]
    return found[-1] if found else ""
