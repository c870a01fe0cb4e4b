"""The commands of the manual that take a whole machine, an etcd or a Kubernetes, as they stand there.

A machine is one whose systemd is real (`systemd_machine.py`); its checkout is in /srv/tulle. Which blocks are run, they
say themselves (`tests/manual.py`).
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from scripts.lib.lab import kube_parts, labs, namespaces
from tests.cluster.etcd import CONF, PREFIX, Member, running
from tests.cluster.systemd_machine import Machine, lacks
from tests.manual import REPO, Block, blocks, script, tried_by
from tests.netns.conftest import netns, unique  # noqa: F401
from tests.pace import PATIENCE, until

BUNDLE = REPO / "dist" / "tulle"
DOCS = REPO / "docs"
NET_D = "/etc/cni/net.d"
SUBNET = "10.244.77.0-24"

built = pytest.mark.skipif(not BUNDLE.exists(), reason="dist/tulle is not built: run scripts/build")
with_etcd = pytest.mark.skipif(shutil.which("etcd") is None, reason="etcd is not installed")
a_machine = pytest.mark.skipif(bool(lacks()), reason=f"no machine with systemd: {lacks()}")


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    """With a checkout, its bundle built, and an address that the examples give to a node."""
    made = Machine(tmp_path)
    try:
        made.put(REPO, ("scripts", "conf", "pyproject.toml", "dist/tulle"), "/srv/tulle")
        made.sh("ip link add eth0 type veth peer wire; ip addr add 192.0.2.1/24 dev eth0; ip link set wire up")
        made.sh("ip link set eth0 up; ip route add default via 192.0.2.254; rm -f /opt/cni/bin/tulle /etc/cni/net.d/*")
        yield made
    finally:
        made.close()


def of(page: Path, tried: list[Block]) -> list[Block]:
    """The blocks of one page."""
    return [each for each in tried if each.page == page]


def typed(machine: Machine, text: str) -> str:
    """What a person's shell on the machine says, in the checkout."""
    words = machine.argv(f"cd /srv/tulle\n{text}")
    done = subprocess.run(words, cwd="/", capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 0, f"{text}\n{done.stdout}{done.stderr}"
    return done.stdout


def cni(machine: Machine, verb: str) -> str:
    """What the plugin answers as a runtime asks it, for the pod p1, with our installed network."""
    read = f"import json; c = json.load(open('{NET_D}/10-tulle.conflist')); p = c['plugins'][0]"
    conf = f"python3 -c \"{read}; print(json.dumps(dict(p, name=c['name'], cniVersion=c['cniVersion'])))\""
    pod = "CNI_CONTAINERID=p1 CNI_NETNS=/run/netns/p1 CNI_IFNAME=eth0 CNI_PATH=/opt/cni/bin"
    return typed(machine, f"{conf} | CNI_COMMAND={verb} {pod} /opt/cni/bin/tulle")


def a_pod_comes_and_goes(machine: Machine) -> None:
    machine.sh("ip netns add p1")
    assert json.loads(cni(machine, "ADD"))["ips"]
    cni(machine, "DEL")


@built
@a_machine
def test_the_bundle_alone_put_there_as_readme_says_wires_a_pod(machine: Machine) -> None:
    typed(machine, script(of(REPO / "README.md", tried_by(__file__, "on a machine"))))
    a_pod_comes_and_goes(machine)


@built
@a_machine
def test_a_node_is_installed_given_a_cluster_and_left_again_as_the_manual_says(machine: Machine) -> None:
    install, cluster, uninstall = of(DOCS / "install.md", tried_by(__file__, "on a machine"))
    assert "Networks" in typed(machine, script([install]))
    assert typed(machine, "systemctl is-active tulled.socket") == "active\n"
    (example,) = (each.text for each in blocks(DOCS / "install.md") if each.language == "json")
    typed(machine, f"cat >cluster.json <<'END'\n{example}END")
    assert "node1" in typed(machine, script([cluster]))
    a_pod_comes_and_goes(machine)
    typed(machine, script([uninstall]))
    assert typed(machine, f"find /opt/cni/bin/tulle /opt/tulle {NET_D}/* 2>/dev/null || true") == ""


@built
@a_machine
@with_etcd
def test_a_node_of_flannel_becomes_tulles_and_flannels_again_as_the_manual_says(machine: Machine) -> None:
    there, back = of(DOCS / "migration.md", tried_by(__file__, "on a machine"))
    flannel(machine)
    typed(machine, script([there]))
    assert typed(machine, "cat /tmp/kubectl").splitlines() == [
        "drain n2 --ignore-daemonsets --delete-emptydir-data", "uncordon n2"
    ]
    assert typed(machine, f"ls {NET_D}") == "10-tulle.conflist\n"
    value = typed(machine, f"ETCDCTL_API=3 etcdctl get --print-value-only {PREFIX}/subnets/{SUBNET}")
    assert json.loads(value)["Node"], "the node has the subnet that flannel gave it"
    a_pod_comes_and_goes(machine)
    typed(machine, script([back]))
    assert typed(machine, f"ls {NET_D}; systemctl is-active flanneld") == "10-flannel.conflist\nactive\n"
    assert "tulle" not in typed(machine, "ip -o link")


def flannel(machine: Machine) -> None:
    """What a node of flannel has, as the manual's commands meet it; kubectl writes down what it is told."""
    machine.sh("""
        printf '#!/bin/sh\\necho "$@" >>/tmp/kubectl\\n' >/usr/local/bin/kubectl; chmod 755 /usr/local/bin/kubectl
        printf '[Service]\\nExecStart=/bin/sleep infinity\\n[Install]\\nWantedBy=basic.target\\n' \
            >/etc/systemd/system/flanneld.service
        systemctl enable --now flanneld.service
        ip link add flannel.1 type vxlan id 1 local 192.0.2.1 dstport 8472 nolearning
        ip link add cni0 type bridge
        echo '{}' >/etc/cni/net.d/10-flannel.conflist
        ip addr add 192.0.2.9/24 dev eth0; ip link set lo up
    """)
    url = "http://192.0.2.9:2379,http://127.0.0.1:2379"
    etcd = f"etcd --data-dir /tmp/etcd --listen-client-urls {url} --advertise-client-urls {url}"
    machine.sh(f"systemd-run --unit flannels-etcd {etcd}")
    until(lambda: "healthy" in machine.sh("ETCDCTL_API=3 etcdctl endpoint health 2>&1 || true"), "etcd answers")
    value = json.dumps({"PublicIP": "192.0.2.1", "BackendType": "vxlan",
                        "BackendData": {"VNI": 1, "VtepMAC": "0e:00:00:00:00:01"}})
    for key, text in (("config", json.dumps(CONF)), (f"subnets/{SUBNET}", value)):
        machine.sh(f"ETCDCTL_API=3 etcdctl put {PREFIX}/{key} '{text}'")


@with_etcd
def test_what_is_typed_beside_etcd_gives_the_network_its_configuration(
    netns: Callable[[str], str], tmp_path: Path  # noqa: F811
) -> None:
    member = Member(netns("etcd"), tmp_path / "etcd")
    with running(member):
        namespaces.run(["sh", "-euc", script(tried_by(__file__, "beside etcd"))], netns=member.netns)
        assert json.loads(member.ctl("get", "--print-value-only", f"{PREFIX}/config")) == CONF
        assert member.subnets() == {SUBNET: {"Node": "n5"}}, "what the node n5 will take"


@built
@pytest.mark.xdist_group("kubernetes")
@pytest.mark.skipif(bool(kube_parts.lacks()), reason=f"no Kubernetes: {kube_parts.lacks()}")
@pytest.mark.parametrize("block", tried_by(__file__, "here"), ids=str)
def test_a_kubernetes_in_the_lab_is_played_with_as_the_manual_says(block: Block) -> None:
    name = unique()
    environ = {**os.environ, "TULLE_LAB": name}
    words = ["bash", "-euxo", "pipefail", "-c", script([block])]
    try:
        done = subprocess.run(words, cwd=REPO, env=environ, stdin=subprocess.DEVNULL, capture_output=True, text=True,
                              timeout=4 * PATIENCE, check=False)  # fmt: skip
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
        assert namespaces.existing(f"tulle-{name}-") == []
    finally:
        labs.down(name)
