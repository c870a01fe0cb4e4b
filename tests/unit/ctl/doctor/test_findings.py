"""The doctor's findings, each a statement about the facts that it is drawn from; a node that is right has none."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from cni_plugin.ctl.cluster.roster import Member, Roster
from cni_plugin.ctl.configs import ConfigFile
from cni_plugin.ctl.diagnosis import finding_names, ill
from cni_plugin.ctl.doctor.addresses import Flaw, RangeUse
from cni_plugin.ctl.doctor.contract import Finding, topics
from cni_plugin.ctl.doctor.managers import File
from cni_plugin.ctl.doctor.parts import Wrong
from cni_plugin.ctl.doctor.peers import Probed
from cni_plugin.ctl.doctor.run_folder import Mount
from cni_plugin.ctl.doctor.stamps import Stamp
from cni_plugin.ctl.eyes import Limit, Pod
from cni_plugin.kernel.nft.ruleset import Hook
from cni_plugin.kernel.see.look import Link
from tests.unit.ctl.doctor.telling import Told, diagnose, facts

POD = Pod(
    "pods", "a", "eth0", "tl0", "tulle0", ("10.244.1.2/24", "fd00:22::2/64"), ("10.244.1.1/24", "fd00:22::1/64"),
    "/run/netns/a", mtu=1500,
)
OURS = ConfigFile("/etc/cni/net.d/10-tulle.conflist", ours=True, plugins=("tulle",), families=(4,))
FOREIGN = ConfigFile("/etc/cni/net.d/05-bridge.conf", plugins=("bridge",))
BRIDGE = Link("tulle0", 2, "bridge", 1500, "02:00:00:00:00:01", "tulle:bridge", assigned=3)
VETH = Link("tl0", 3, "veth", 1500, "0e:00:00:00:00:01", "tulle:pods/a/eth0", master="tulle0", assigned=3)
UPLINK = Link("up0", 4, mtu=1500, mac="02:00:00:00:00:09", assigned=0)
LOOSE = {f"net/ipv4/conf/{dev}/rp_filter": "2" for dev in ("tulle0", "up0")} | {
    "net/ipv4/conf/all/rp_filter": "0"
}
RIGHT: Told = {
    "version": "0.1.0", "boot": "b1", "now": 2000.0,
    "sysctls": {"net/ipv4/ip_forward": "1", "net/ipv6/conf/all/forwarding": "1", **LOOSE},
    "links": (BRIDGE, VETH, UPLINK), "own": ("tulle0", "tl0"), "limits": (Limit("pods", "up0", 1500),), "pods": (POD,),
    "stamps": (Stamp("record pods/a:eth0", "b1", 1000.0),), "configs": (OURS,),
    "pools": (RangeUse("pods", "range set 0", 1, 253),),
    "mount": Mount("/run", "tmpfs", True), "agent": {"version": "0.1.0", "ready": True},
    "features": {"bridge": True, "veth": True},
}  # fmt: skip


def pod(**changes: Any) -> Pod:
    return msgspec.structs.replace(POD, **changes)


def with_facts(**changes: Any) -> Told:
    return {**RIGHT, **changes}


def with_sysctls(**changes: str) -> Told:
    return with_facts(sysctls={**RIGHT["sysctls"], **{key.replace("__", "/"): each for key, each in changes.items()}})


def with_links(*links: Link) -> Told:
    names = {each.name for each in links}
    return with_facts(links=(*links, *(each for each in RIGHT["links"] if each.name not in names)))


def changed(link: Link, **changes: Any) -> Told:
    return with_links(msgspec.structs.replace(link, **changes))


SELF = Member(
    name="n1", addresses=("192.0.2.1",), subnets=("10.244.1.0/24",), overlay=("10.244.1.0",), me=True
)
PEER = Member(
    name="n2", addresses=("192.0.2.2",), subnets=("10.244.2.0/24",), overlay=("10.244.2.0",), way="vxlan"
)
CLUSTER = Roster(
    network="pods", source="/run/tulle/cluster.json", node="n1", backend="vxlan", device="tulle.1", vni=1, port=8472,
    mtu=1450, networks=("10.244.0.0/16",), members=(SELF, PEER), programmed=True,
)
PROBED = Probed(network="pods", node="n2", address="10.244.2.0", mtu=1450, why="no answer")


def with_cluster(**changes: Any) -> Told:
    return with_facts(clusters=(msgspec.structs.replace(CLUSTER, **changes),))


def with_peer(**changes: Any) -> Told:
    return with_cluster(members=(SELF, msgspec.structs.replace(PEER, **changes)))


def in_cluster(**told: Any) -> Told:
    """With an agent that says this of its cluster."""
    cluster = {"source": "kubernetes", "ready": True, "problems": [], **told}
    return with_facts(agent={**RIGHT["agent"], "cluster": cluster})


def leftover(*links: Link) -> Told:
    return with_facts(clusters=(CLUSTER,), links=(*RIGHT["links"], *links))


def drop(table: str) -> tuple[Hook, ...]:
    return (Hook(table, "FORWARD", "filter", "forward", "filter", "drop"),)


PERSISTENT = (File("/usr/lib/systemd/network/99-default.link",
                   "[Match]\nOriginalName=*\n\n[Link]\nMACAddressPolicy=persistent\n"),)
PORTS = tuple(Link(f"tlp{number}", 100 + number, "veth", 1500, master="tulle0") for number in range(1023))
NF = "net/netfilter/nf_conntrack_"

CASES: dict[str, tuple[Told, str, str]] = {
    # what is wrong: (facts, severity, what is said of it)
    "forwarding-off": (with_sysctls(net__ipv4__ip_forward="0"), "error", "net/ipv4/ip_forward"),
    "forwarding-off by IPv6": (with_sysctls(net__ipv6__conf__all__forwarding="0"), "error", "IPv6"),
    "no-ipv6": (
        with_facts(sysctls={key: each for key, each in RIGHT["sysctls"].items() if "ipv6" not in key}),
        "error", "no such key",
    ),
    "not-as-recorded": (
        with_facts(wrong=(Wrong("bridge tulle0", ("ip link set tulle0 up", "ip addr add x")),)),
        "warning", "lacks 'ip link set tulle0 up' and 1 more",
    ),
    "strict-rp-filter": (with_sysctls(net__ipv4__conf__up0__rp_filter="1"), "warning", "rp_filter=2"),
    "strict-rp-filter by all": (
        with_sysctls(net__ipv4__conf__all__rp_filter="1", net__ipv4__conf__up0__rp_filter="0"),
        "warning", "net/ipv4/conf/up0/rp_filter",
    ),
    "mtu-too-large": (with_facts(limits=(Limit("pods", "up0", 1500, 50, "tulle.1"),)), "warning", "mtu 1450"),
    "mtu-differs": (changed(VETH, mtu=1400), "warning", "bridge tulle0 1500"),
    "mtu-differs in the pod": (with_facts(pods=(pod(mtu=1300),)), "warning", "eth0 in a 1300"),
    "foreign-drop": (with_facts(hooks=drop("ip filter")), "warning", "nft insert rule ip filter FORWARD iifname"),
    "legacy-iptables": (with_facts(legacy=("iptables-legacy FORWARD policy DROP",)), "warning", "old iptables"),
    "br-netfilter": (with_sysctls(**{"net__bridge__bridge-nf-call-iptables": "1"}), "hint", "kube-proxy"),
    "services-need-br-netfilter": (
        with_facts(services=("kube-proxy with nftables",)), "warning", "modprobe br_netfilter",
    ),
    "services-need-br-netfilter with IPVS": (
        with_facts(links=(*RIGHT["links"], Link("kube-ipvs0", 90, "dummy", 1500))), "warning", "kube-proxy with IPVS",
    ),
    "mac-policy": (with_facts(link_files=PERSISTENT), "hint", "99-default.link"),
    "mac-not-set": (changed(VETH, assigned=1), "warning", "ip link set tl0 address 0e:00:00:00:00:01"),
    "manage-foreign-routes": (with_facts(networkd=()), "warning", "the default"),
    "network-manager": (with_facts(managed=("tulle0",)), "warning", "unmanaged-devices"),
    "shadowed-configuration": (with_facts(configs=(FOREIGN, OURS)), "error", "mv /etc/cni/net.d/05-bridge.conf"),
    "no-configuration": (with_facts(configs=()), "error", "NotReady"),
    "no-configuration of ours": (with_facts(configs=(FOREIGN,)), "error", "another plugin"),
    "bad-configuration": (
        with_facts(configs=(msgspec.structs.replace(OURS, problem="invalid mtu 1"),)), "error", "invalid mtu 1",
    ),
    "pool-exhausted": (with_facts(pools=(RangeUse("pods", "range set 0", 13, 13),)), "error", "ContainerCreating"),
    "pool-nearly-exhausted": (with_facts(pools=(RangeUse("pods", "range set 0", 92, 100),)), "warning", "92 of 100"),
    "leaked-address": (
        with_facts(flaws=(Flaw("pods", "10.22.0.9", "z", "leaked: no attachment has it"),)), "warning",
        "tullectl ipam release pods 10.22.0.9",
    ),
    "damaged-lease": (with_facts(flaws=(Flaw("pods", "10.22.0.9", "", "damaged: empty"),)), "warning", "empty"),
    "missing-lease": (with_facts(flaws=(Flaw("pods", "10.22.0.2", "a", "in use without a lease"),)), "error", "second"),
    "damaged-record": (with_facts(damaged=("/run/tulle/x",)), "warning", "rm '/run/tulle/x'"),
    "dead-attachment": (with_facts(pods=(pod(state="dead"),)), "warning", "crictl rmp a"),
    "unplugged": (with_facts(pods=(pod(state="unplugged"),)), "error", "tullectl repair"),
    "orphan": (
        with_links(Link("tl9", 9, "veth", 1500, alias="tulle:pods/gone/eth0", assigned=3)),
        "warning", "ip link del tl9",
    ),
    "duplicate-address": (
        with_facts(pods=(POD, pod(container="b", ips=("10.244.1.2/24",)))), "error", "10.244.1.2",
    ),
    "bridge-down": (changed(BRIDGE, up=False), "error", "down"),
    "vlan-filtering-off": (
        with_facts(pods=(pod(vlan=True),),
                   links=(msgspec.structs.replace(BRIDGE, vlan_filtering=False), VETH, UPLINK)), "error", "VLANs",
    ),
    "missing-feature": (with_facts(features={"vxlan": False}), "error", "CONFIG_VXLAN"),
    "agent-away": (with_facts(agent={}), "hint", "only slower"),
    "agent-away and required": (
        with_facts(agent={}, configs=(msgspec.structs.replace(OURS, agent="required"),)), "error", "required",
    ),
    "agent-version": (with_facts(agent={"version": "0.0.9", "ready": True}), "warning", "systemctl restart tulled"),
    "agent-not-ready": (
        with_facts(agent={"version": "0.1.0", "ready": False, "problem": "no room"}), "warning", "no room",
    ),
    "other-boot": (with_facts(stamps=(Stamp("record pods/a:eth0", "b0", 1000.0),)), "hint", "b0"),
    "clock": (with_facts(stamps=(Stamp("record pods/a:eth0", "b1", 2600.0),)), "warning", "600 s in the future"),
    "run-dir-not-tmpfs": (with_facts(mount=Mount("/", "ext4", True)), "warning", "ext4 on /"),
    "run-dir-read-only": (with_facts(mount=Mount("/run", "tmpfs", False)), "error", "remount,rw"),
    "many-ports": (with_links(*PORTS[:900]), "warning", "901 of 1023"),
    "many-ports and no room": (with_links(*PORTS[:1022]), "error", "1023 of 1023"),
    "conntrack-full": (with_sysctls(**{f"{NF}count": "95", f"{NF}max": "100"}), "warning", "95 of 100"),
    "source-away": (in_cluster(trouble="https://192.0.2.9:6443 refuses"), "warning", "192.0.2.9:6443 refuses"),
    "cluster-not-ready": (in_cluster(ready=False, reason="no subnet yet"), "error", "no subnet yet"),
    "node-conflict": (in_cluster(problems=["n3 is left out: its address is a pod's"]), "error", "n3 is left out"),
    "node-conflict by an address": (
        in_cluster(problems=["n3 has the same address 192.0.2.2 as n2"]), "warning", "delete the node that is no more",
    ),
    "slow-tunnel": (with_cluster(slow="Linux 5.4.0 is older than 5.8"), "hint", '"txChecksum": true'),
    "not-guarded": (with_cluster(unguarded="no guard: Operation not supported"), "warning", "modprobe nf_tables"),
    "node-list-problem": (in_cluster(problems=["n3.json is not valid JSON"]), "warning", "n3.json is not valid JSON"),
    "wrong-cluster-cidr": (
        in_cluster(problems=["n3 is left out: its subnet 10.9.3.0/24 lies outside the cluster's network 10.2.0.0/16"]),
        "error", "--cluster-cidr",
    ),
    "bad-node-list": (with_cluster(trouble="invalid cluster.nodes"), "error", "/run/tulle/cluster.json"),
    "unknown-key": (
        with_facts(configs=(msgspec.structs.replace(
            OURS, doubts=("ipMask: there is no such key; did you mean ipMasq?",)
        ),)), "warning", "did you mean ipMasq?",
    ),
    "ranges-outside-subnet": (
        with_facts(
            clusters=(CLUSTER,), configs=(msgspec.structs.replace(OURS, network="pods", ranges=("10.9.0.0/24",)),),
        ),
        "error", "10.9.0.0/24; this node's subnets are 10.244.1.0/24",
    ),
    "former-subnet": (
        with_facts(clusters=(CLUSTER,), pods=(POD, pod(container="old", ips=("10.244.7.2/24",)))), "error",
        "10.244.7.2/24; this node's subnets are 10.244.1.0/24",
    ),
    "no-way-to-peer": (with_peer(way="", why="not on this link"), "error", "not on this link"),
    "peer-not-programmed": (with_peer(missing=("ip route add x", "y")), "error", "ip route add x and more"),
    "peer-silent": (with_facts(clusters=(CLUSTER,), probed=(PROBED,)), "error", "let UDP 8472 through"),
    "mtu-black-hole": (
        with_facts(clusters=(CLUSTER,), probed=(msgspec.structs.replace(PROBED, ms=0.4, whole=False, passes=1350),)),
        "error", "1350 bytes pass, the pods' 1450 do not",
    ),
    "mtu-black-hole of many": (
        with_facts(clusters=(CLUSTER,), probed=(msgspec.structs.replace(PROBED, ms=0.4, whole=False),)),
        "error", "small ones pass, the pods' 1450 bytes do not",
    ),
    "vni-clash": (leftover(Link("flannel.1", 9, "vxlan", vni=1, udp_port=8472)), "error", "ip link del flannel.1"),
    "flannel-leftover": (leftover(Link("flannel.7", 9, "vxlan", vni=7, udp_port=8472)), "warning", "flannel.7"),
    "flannel-leftover with pods": (
        leftover(Link("cni0", 9, "bridge"), Link("v0", 10, "veth", master="cni0")), "hint", "1 ports",
    ),
    "not-known": (with_facts(unknown={"nftables": "Operation not permitted"}), "not known", "Operation not permitted"),
    "not-known MAC": (changed(VETH, assigned=-1), "not known", "/sys shows another network namespace"),
}  # fmt: skip


def text(each: Finding) -> str:
    return " ".join((each.key, each.value, each.why, each.remedy))


def test_a_node_that_is_right_has_no_finding() -> None:
    assert diagnose(RIGHT) == []


def test_of_a_node_about_which_nothing_is_known_nothing_is_invented() -> None:
    assert [each.name for each in diagnose({"unknown": {"configuration": "?"}})] == ["not-known", "agent-away"]


@pytest.mark.parametrize("what", CASES)
def test_what_is_wrong_is_found_and_nothing_else(what: str) -> None:
    told, severity, says = CASES[what]
    found = diagnose(told)
    assert {each.name for each in found} == {what.split()[0]}, found
    assert found[0].severity == severity
    assert any(says in text(each) for each in found), found


@pytest.mark.parametrize("what", CASES)
def test_a_finding_says_what_was_seen_why_it_matters_and_what_to_do(what: str) -> None:
    for each in diagnose(CASES[what][0]):
        assert each.key
        assert each.value
        assert len(each.why) > 20, each
        assert each.remedy, each


def test_every_finding_has_a_case_here() -> None:
    assert {each.split()[0] for each in CASES} == set(finding_names())
    known = [(topic.FINDINGS, name) for name, topic in topics().items()]
    fired = {
        find for told, _, _ in CASES.values() for findings, name in known for find in findings
        if list(find(facts(told)[name]))
    }  # fmt: skip
    assert fired == {find for findings, _ in known for find in findings}


@pytest.mark.parametrize("what", CASES)
def test_a_finding_bears_a_name_that_its_topic_gives_it(what: str) -> None:
    told = facts(CASES[what][0])
    for name, topic in topics().items():
        for find, names in topic.FINDINGS.items():
            assert {each.name for each in find(told[name])} <= set(names)


def test_the_gravest_comes_first_and_only_hints_are_well() -> None:
    both = with_facts(agent={}, sysctls={**RIGHT["sysctls"], "net/ipv4/ip_forward": "0"}, unknown={"x": "y"})
    assert [each.severity for each in diagnose(both)] == ["error", "not known", "hint"]
    assert ill(diagnose(both))
    assert not ill(diagnose(with_facts(agent={})))
    assert ill(diagnose(with_facts(unknown={"x": "y"})))


def test_what_is_not_known_for_one_reason_is_told_once() -> None:
    pods = {f"MTU of pod {number}": "Operation not permitted" for number in range(150)}
    (found,) = diagnose(with_facts(unknown=pods))
    assert found.key.endswith("MTU of pod 2 and 147 more")


def test_bridge_netfilter_is_a_warning_only_with_a_firewall_that_drops() -> None:
    key = {"net/bridge/bridge-nf-call-iptables": "1"}
    told = with_facts(sysctls={**RIGHT["sysctls"], **key}, hooks=drop("ip filter"))
    (found,) = [each for each in diagnose(told) if each.name == "br-netfilter"]
    assert found.severity == "warning"


def test_a_kube_proxy_with_br_netfilter_is_no_trouble_but_where_a_family_lacks_it() -> None:
    both = {f"net/bridge/bridge-nf-call-{each}": "1" for each in ("iptables", "ip6tables")}
    proxy = with_facts(services=("kube-proxy with iptables",), sysctls={**RIGHT["sysctls"], **both})
    assert diagnose(proxy) == []
    half = {**proxy, "sysctls": {**proxy["sysctls"], "net/bridge/bridge-nf-call-ip6tables": "0"}}
    assert [each.key for each in diagnose(half)] == ["net/bridge/bridge-nf-call-ip6tables"]


def test_our_own_table_and_other_hooks_are_no_foreign_firewall() -> None:
    ours = (*drop("inet tulle"), Hook("ip filter", "INPUT", "filter", "input", "filter", "drop"))
    assert diagnose(with_facts(hooks=ours)) == []


def test_a_firewall_that_lets_our_bridge_through_both_ways_is_no_trouble() -> None:
    (hook,) = drop("ip filter")
    coming, going = 'iifname "tulle0" counter packets 0 bytes 0 accept', 'oifname "tulle0" accept'
    half = with_facts(hooks=(msgspec.structs.replace(hook, accepts=(coming,)),))
    assert [each.name for each in diagnose(half)] == ["foreign-drop"]
    assert diagnose(with_facts(hooks=(msgspec.structs.replace(hook, accepts=(coming, going)),))) == []


def test_a_network_that_is_only_switched_may_have_an_mtu_larger_than_the_uplinks() -> None:
    pods = (pod(gateways=(), mtu=9000),)
    links = tuple(msgspec.structs.replace(each, mtu=9000) for each in (BRIDGE, VETH))
    assert diagnose(with_facts(pods=pods, links=(*links, UPLINK))) == []


def test_a_link_file_for_other_links_or_hardware_is_not_taken_for_the_policy_of_ours() -> None:
    wlan = File("10-wlan.link", "[Match]\nOriginalName=wlan*\n[Link]\nMACAddressPolicy=persistent\n")
    card = File("20-card.link", "[Match]\nOriginalName=*\nDriver=e1000\n[Link]\nMACAddressPolicy=persistent\n")
    assert diagnose(with_facts(link_files=(wlan, card))) == []
    none = File("05-tulle.link", "[Match]\nOriginalName=tulle* tl*\n[Link]\nMACAddressPolicy=none\n")
    assert diagnose(with_facts(link_files=(none, *PERSISTENT))) == []


@pytest.mark.parametrize("value", ["no", "false", "off"])
def test_networkd_that_leaves_foreign_routes_is_right(value: str) -> None:
    main = File("/etc/systemd/networkd.conf", "[Network]\nManageForeignRoutes=yes\n")
    extra = File("/etc/systemd/networkd.conf.d/tulle.conf", f"[Network]\nManageForeignRoutes={value}\n")
    assert diagnose(with_facts(networkd=(main, extra))) == []
    assert diagnose(with_facts(networkd=(extra, main)))[0].value == "yes"


def test_forwarding_that_no_pod_needs_is_not_missed() -> None:
    """A network without gateways is switched, not routed."""
    told = with_facts(pods=(pod(gateways=()),), configs=(msgspec.structs.replace(OURS, families=()),),
                       sysctls={**RIGHT["sysctls"], "net/ipv4/ip_forward": "0", "net/ipv6/conf/all/forwarding": "0"})
    assert diagnose(told) == []


def test_a_pod_on_an_mtu_that_just_fits_the_tunnel_is_right() -> None:
    told = with_facts(
        limits=(Limit("pods", "up0", 1500, 50, "tulle.1"),), pods=(pod(mtu=1450),),
        links=tuple(msgspec.structs.replace(each, mtu=1450) for each in (BRIDGE, VETH)),
    )
    assert diagnose(told) == []
