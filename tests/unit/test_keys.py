"""A misspelt key: refused where settings are ours alone, told where others' keys may stand, with what was meant."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from cni_plugin import cluster, doubts, flannel, keys, plugins
from cni_plugin.agent import settings
from cni_plugin.agent.sources.contract import Mailbox, open_source
from cni_plugin.errors import CniError
from tests.unit.support import Node

Json = dict[str, object]
BASE: Json = {"cniVersion": "1.0.0", "name": "pods", "type": "tulle", "ipam": {"type": "host-local"}}


def told(**more: object) -> list[str]:
    raw = {**BASE, **more}
    found = plugins.parse(raw)
    return doubts.of_plugin(raw, found.conf, *found.features.values())


def refusal(work: Callable[[], object]) -> str:
    with pytest.raises(CniError) as caught:
        work()
    assert caught.value.code == 7
    return caught.value.msg


# What is close


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("ipMask", "ipMasq"), ("isGatway", "isGateway"), ("Netwrok", "network"), ("endpoint", "endpoints"),
        ("tpye", "type"), ("prot", "port"), ("data_dir", "dataDir"), ("ip-masq", "ipMasq"), ("podCIDR", "podCIDRs"),
        ("MTUs", "mtu"), ("delegates", ""), ("snat", ""), ("x", ""), ("", ""),
    ],
)
def test_a_key_that_is_close_to_one_of_ours_is_taken_for_it(word: str, meant: str) -> None:
    known = ["ipMasq", "isGateway", "network", "endpoints", "type", "port", "dataDir", "podCIDRs", "mtu"]
    assert keys.near(word, known) == meant


@pytest.mark.parametrize(
    ("field", "key"),
    [
        ("ip_masq", "ipMasq"), ("pod_cidrs", "podCIDRs"), ("min_id", "minID"), ("ipv6_network", "ipv6Network"),
        ("enable_ipv4", "enableIPv4"), ("public_ipv6", "publicIPv6"), ("can_reach", "canReach"), ("mtu", "mtu"),
        ("wire_mtu", "wireMTU"), ("container_id", "containerID"), ("cni_version", "cniVersion"),
    ],
)
def test_a_field_is_spelled_as_people_write_its_key(field: str, key: str) -> None:
    assert keys.spelled(field) == key


# CNI configurations, which may carry the keys of others


@pytest.mark.parametrize(
    ("more", "path", "meant"),
    [
        ({"ipMask": True}, "ipMask", "ipMasq"),
        ({"isGatway": True}, "isGatway", "isGateway"),
        ({"hairpin_mode": True}, "hairpin_mode", "hairpinMode"),
        ({"ipam": {"type": "host-local", "rangestrat": "10.22.0.5"}}, "ipam.rangestrat", "rangeStart"),
        ({"ipam": {"type": "host-local", "ranges": [[{"subnets": "10.22.0.0/24"}]]}},
         "ipam.ranges[0][0].subnets", "subnet"),
        ({"ipam": {"type": "host-local", "routes": [{"dst": "0.0.0.0/0", "gww": "10.0.0.1"}]}},
         "ipam.routes[0].gww", "gw"),
        ({"vlanTrunk": [{"minId": 5, "maxID": 6}, {"id": 7, "idd": 7}]}, "vlanTrunk[1].idd", "id"),
        ({"dns": {"nameserver": ["10.0.0.53"]}}, "dns.nameserver", "nameservers"),
        ({"runtimeConfig": {"ipRange": []}}, "runtimeConfig.ipRange", "ipRanges"),
        ({"args": {"cni": {"ipss": []}}}, "args.cni.ipss", "ips"),
    ],
)
def test_an_unknown_key_close_to_a_known_one_is_told_with_it(more: Json, path: str, meant: str) -> None:
    assert told(**more) == [f"{path}: there is no such key; did you mean {meant}?"]


def test_keys_of_the_specification_of_runtimes_and_of_others_are_nobodys_mistake() -> None:
    everything = {
        "cniVersions": ["1.0.0"], "disableCheck": True, "disableGC": True, "capabilities": {"portMappings": True},
        "prevResult": {"ipz": []}, "cluster": {"nodez": []}, "HAIRPINMODE": True, "delegates": [], "mtu": None,
        "cni.dev/valid-attachments": [], "cni.dev/attachments": [], "keyA": ["some"],
        "runtimeConfig": {"io.kubernetes.cri.pod-annotations": {}, "cgroupPath": "/x", "aliases": [], "bandwidth": {}},
        "args": {"labels": [], "cni": {"ips": []}},
    }
    assert told(**everything) == []
    assert told(ipam={"type": "static", "adresses": [], "subnets": 5, "gatway": ""}) == [], "a foreign IPAM's own"
    reference = {
        "bridge": "cni0", "isGateway": True, "isDefaultGateway": True, "forceAddress": False, "ipMasq": True,
        "ipMasqBackend": "nftables", "mtu": 1500, "hairpinMode": False, "promiscMode": False, "vlan": 0,
        "vlanTrunk": [{"minID": 1, "maxID": 2}, {"id": 7}], "preserveDefaultVlan": True, "macspoofchk": False,
        "enabledad": False, "disableContainerInterface": False, "portIsolation": False,
        "ipam": {"type": "host-local", "resolvConf": "", "dataDir": "/d", "routes": [{"dst": "::/0", "gw": "fd00::1"}],
                 "ranges": [[{"subnet": "10.1.0.0/24", "rangeStart": "", "rangeEnd": "", "gateway": ""}]]},
    }
    assert told(**reference) == []


# Clusters and net-conf.json


def test_a_cluster_object_is_looked_at_to_its_last_node() -> None:
    node = {"name": "n1", "address": "192.0.2.1", "podCIDRs": ["10.244.1.0/24"]}
    raw = {
        "Netwrok": "10.244.0.0/16", "backend": {"type": "vxlan", "prot": 8472, "MacPrefix": "0E-2A", "Learning": True},
        "nodes": [node, {**node, "name": "n2", "adress": "192.0.2.2", "ipv6Adress": "fd00::2"}],
    }
    found = doubts.of_cluster(raw)
    assert [each.split(":")[0] for each in found] == [
        "cluster.Netwrok", "cluster.nodes[1].adress", "cluster.nodes[1].ipv6Adress", "cluster.backend.prot"
    ]
    assert "did you mean network?" in found[0] and "did you mean port?" in found[3]


def test_what_the_agent_writes_of_a_cluster_has_no_doubtful_key() -> None:
    node = {"name": "n1", "address": "192.0.2.1", "podCIDRs": ["10.244.1.0/24"], "since": 5, "backendData": {"a": "b"}}
    keys = {"Type": "vxlan", "VNI": 1, "MTU": 1500, "DirectRouting": True, "GBP": False, "Port": 0}
    options = flannel.parse({"Network": "10.244.0.0/16", "Backend": keys}).options
    backend: Json = {"type": "vxlan", **options}
    made = cluster.parse({"network": "10.244.0.0/16", "backend": backend, "nodes": [node]})
    assert doubts.of_cluster(json.loads(cluster.render(made))) == []


def test_flannels_file_is_looked_at_too_and_its_own_keys_are_known() -> None:
    known = {
        "Network": "10.244.0.0/16", "IPv6Network": "fd00::/48", "EnableIPv4": True, "EnableIPv6": True, "SubnetLen": 24,
        "EnableNFTables": False, "Networks": [], "IPv6Networks": [], "SubnetMin": "10.244.1.0",
        "SubnetMax": "10.244.9.0",
        "IPv6SubnetLen": 64, "IPv6SubnetMin": None, "IPv6SubnetMax": None,
        "Backend": {"Type": "vxlan", "VNI": 1, "Port": 8472, "GBP": False, "Learning": False, "DirectRouting": True,
                    "MTU": 1500, "MacPrefix": "0E-2A", "Name": "x"},
    }
    assert flannel.parse(known).doubts == ()
    wrong = flannel.parse({"Netwrok": "10.244.0.0/16", "Backend": {"Type": "vxlan", "DirectRoutin": True}}).doubts
    assert [each.split(":")[0] for each in wrong] == ["Netwrok", "Backend.DirectRoutin"]
    (typo,) = flannel.parse({"Network": "10.244.0.0/16", "Backend": {"Tpye": "host-gw"}}).doubts
    assert typo == "Backend.Tpye: there is no such key; did you mean type?"


# Told where it is asked


@pytest.mark.parametrize("verb", ["ADD", "STATUS"])
def test_add_and_status_say_it_on_stderr_and_succeed(
    node: Node, verb: str, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = node.configured(cniVersion="1.1.0", ipMask=True)
    assert wrong.call(verb).exit == 0
    assert "ipMask: there is no such key; did you mean ipMasq?" in capsys.readouterr().err


# Settings of ours


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ({"metrcis": "127.0.0.1:9472"}, "invalid metrcis: there is no such key; did you mean metrics?"),
        ({"Metrics": "127.0.0.1:9472"}, "did you mean metrics?"),
        ({"address": {"canreach": "192.0.2.1"}}, "address.canreach: there is no such key; did you mean canReach?"),
        ({"cni": {"pth": "/x"}}, "invalid cni.pth"),
        ({"surprise": 1}, "invalid surprise: there is no such key; remove it"),
        ({"log": "verbose"}, "invalid log 'verbose': use one of 'error', 'warn', 'info', 'debug'"),
        ({"interval": "60"}, "invalid interval '60'"),
        ({"address": {"interface": "eth0"}}, "invalid address.interface 'eth0'"),
    ],
)
def test_a_key_that_the_agents_settings_do_not_have_is_refused_at_every_depth(
    tmp_path: Path, written: Json, said: str
) -> None:
    path = tmp_path / "agent.json"
    path.write_text(json.dumps(written))
    found = refusal(lambda: settings.load(str(path)))
    assert said in found and str(path) in found


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ({"type": "etcd", "endpoint": ["http://a"]}, "source.endpoint: there is no such key; did you mean endpoints?"),
        ({"type": "etcd", "caFiel": "/x"}, "did you mean caFile?"),
        ({"type": "file", "paht": "/x"}, "did you mean path?"),
        ({"type": "kubernetes", "configmaps": "a/b"}, "did you mean configMap?"),
        ({"type": "kubernetes", "endpoints": []}, "invalid source.endpoints: there is no such key; remove it"),
    ],
)
def test_a_key_that_a_source_does_not_have_is_refused(source: Json, said: str) -> None:
    mailbox = Mailbox()
    assert said in refusal(lambda: open_source(source, "n1", mailbox))
    mailbox.close()


# Mistakes name what was written, and the choices


@pytest.mark.parametrize(
    ("node", "said"),
    [
        ({"name": "n1", "address": "192.0.2.1", "podCIDR": "10.244.1.0/24"},
         "it has no podCIDRs: write podCIDRs where you wrote podCIDR"),
        ({"name": "n1", "podCIDRs": []}, "it has no address"),
        ({"name": "n1", "adress": "192.0.2.1", "podCIDRs": []}, "write address where you wrote adress"),
    ],
)
def test_a_key_that_is_missing_is_called_as_people_write_it(node: Json, said: str) -> None:
    found = refusal(lambda: cluster.parse({"nodes": [node]}))
    assert found.startswith("invalid cluster.nodes[0] ") and found.endswith(said)


def test_a_word_that_is_none_of_the_choices_is_told_them() -> None:
    assert "use one of 'auto', 'required', 'none'" in refusal(lambda: plugins.parse({**BASE, "agent": "maybe"}))
    assert "use one of '', 'iptables', 'nftables'" in refusal(lambda: plugins.parse({**BASE, "ipMasqBackend": "ebpf"}))
