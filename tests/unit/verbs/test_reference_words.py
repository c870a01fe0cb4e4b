"""Clients and test suites match words of the reference plugins' errors: where we refuse the same thing, ours has them.

The words are those of libcni's skel, of the bridge plugin and of host-local, 1.1.1 to 1.9.1.
"""

from __future__ import annotations

import pytest

from cni_plugin.kernel.errors import NetnsError
from cni_plugin.verbs.run import as_cni_error
from tests.unit.support import Json, Node

DUAL: Json = {"type": "host-local", "ranges": [[{"subnet": "10.22.0.0/24"}], [{"subnet": "10.23.0.0/24"}]]}


def ipam(node: Node, **keys: object) -> Json:
    return {"type": "host-local", "dataDir": f"{node.home}/data", "subnet": "10.22.0.0/24", **keys}


@pytest.mark.parametrize(
    ("verb", "keys", "environ", "words"),
    [
        ("FROB", {}, {}, "unknown CNI_COMMAND: "),
        ("ADD", {}, {"CNI_NETNS": None, "CNI_CONTAINERID": None}, "env variables [CNI_CONTAINERID,CNI_NETNS] missing"),
        ("ADD", {}, {"CNI_CONTAINERID": "../x"}, "invalid characters in containerID"),
        ("ADD", {}, {"CNI_IFNAME": "sixteen-letters-"}, "interface name is too long"),
        ("ADD", {}, {"CNI_IFNAME": ".."}, "interface name is . or .."),
        ("ADD", {}, {"CNI_IFNAME": "a/b"}, "interface name contains / or : or whitespace characters"),
        ("ADD", {}, {"CNI_ARGS": "COLOUR=red"}, "ARGS: unknown args "),
        ("ADD", {}, {"CNI_ARGS": "COLOUR"}, "ARGS: invalid pair "),
        ("ADD", {"name": None}, {}, "missing network name"),
        ("ADD", {"name": "a/b"}, {}, "invalid characters found in network name"),
        ("ADD", {"cniVersion": "9.9.9"}, {}, "incompatible CNI versions"),
        ("CHECK", {"cniVersion": "0.3.1"}, {}, "config version does not allow CHECK"),
        ("GC", {"cniVersion": "1.0.0"}, {}, "config version does not allow GC"),
        ("STATUS", {"cniVersion": "1.0.0"}, {}, "config version does not allow STATUS"),
        ("CHECK", {}, {}, "Required prevResult missing"),
        (
            "ADD", {"hairpinMode": True, "promiscMode": True}, {},
            "cannot set hairpin mode and promiscuous mode at the same time.",
        ),
        ("ADD", {"vlan": 4095}, {}, "invalid VLAN ID 4095 (must be between 0 and 4094)"),
        ("ADD", {"disableContainerInterface": True}, {}, "cannot use IPAM when DisableContainerInterface flag is set"),
        ("ADD", {"runtimeConfig": {"ips": ["10.99.0.1"]}}, {}, "failed to allocate all requested IPs: 10.99.0.1"),
        ("ADD", {"runtimeConfig": {"ips": ["10.22.0.1"]}}, {}, "requested IP address 10.22.0.1 is not available"),
    ],
)
def test_an_error_has_the_words_that_the_references_has(
    node: Node, verb: str, keys: Json, environ: dict[str, str | None], words: str
) -> None:
    reply = node.configured(**keys).call(verb, "a eth0", None, **environ)
    assert words in str(reply.body["msg"])
    assert "None" not in reply.said
    assert node.left() == []


def test_the_hosts_own_namespace() -> None:
    error = as_cni_error(NetnsError("own", "/proc/self/ns/net"))
    assert "plugin's netns and netns from CNI_NETNS should not be the same" in error.msg


def test_an_interface_that_is_there_already(node: Node) -> None:
    node.call("ADD")
    assert "container veth name provided (eth0) already exists" in node.call("ADD", "b eth0").said


def test_a_lease_that_is_there_already(node: Node) -> None:
    node.called = "host-local"
    node.call("ADD")
    assert "has been allocated to a (eth0), duplicate allocation is not allowed" in node.call("ADD").said


def test_a_range_that_is_full(node: Node) -> None:
    small = node.configured(ipam=ipam(node, rangeStart="10.22.0.9", rangeEnd="10.22.0.9"))
    small.call("ADD")
    assert "no IP addresses available in range set" in small.call("ADD", "b eth1").said


@pytest.mark.parametrize("called", ["tulle", "host-local"])
@pytest.mark.parametrize("version", ["0.1.0", "0.2.0"])
def test_what_the_oldest_versions_cannot_tell_is_refused_and_all_given_back(
    node: Node, called: str, version: str
) -> None:
    """A second address would be the pod's, and its runtime would not know."""
    node.called = called
    two = node.configured(cniVersion=version, ipam={**DUAL, "dataDir": f"{node.home}/data"})
    reply = two.call("ADD")
    assert reply.code == 1
    assert f"CNI version {version} does not support more than 1 address per family" in reply.said
    assert (node.left(), node.kernel.pod_link_exists("eth0")) == ([], False)


@pytest.mark.parametrize(
    ("stdin", "version"),
    [
        (b'{"cniVersion": "0.4.0", "name": "n"}', "0.4.0"), (b'{"CNIVERSION": "1.0.0"}', "1.0.0"), (b"{}", "0.1.0"),
        (b'{"cniVersion": "7.0.0"}', "1.1.0"), (b"no json", "1.1.0"), (b"", "1.1.0"),
    ],
)
def test_an_error_bears_the_version_in_use_whatever_is_wrong(node: Node, stdin: bytes, version: str) -> None:
    for wrong in ({"CNI_COMMAND": "FROB"}, {"CNI_CONTAINERID": None}, {"CNI_IFNAME": "a/b"}):
        assert node.call("ADD", stdin=stdin, **wrong).body["cniVersion"] == version
