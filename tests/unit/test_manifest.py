"""What conf/ ships for clusters: the manifest, the chart that renders to it, and the samples of the agent's settings.

They are read by the code that will read them on a node, so a sample that the agent would refuse is refused here.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml  # type: ignore[import-untyped]

from cni_plugin import flannel
from cni_plugin.agent import conflist, settings
from cni_plugin.agent.sources import contract as sources
from cni_plugin.agent.sources import kubernetes
from cni_plugin.backends import vxlan
from cni_plugin.conf.reading import typed
from cni_plugin.features import masquerade
from cni_plugin.ipams import host_local
from cni_plugin.keys import spelled
from cni_plugin.network import NetworkKeys
from cni_plugin.spec import Dns
from cni_plugin.store.records import DEFAULT_RUN_DIR
from cni_plugin.wirings import bridge
from tests.helm import CHART, HelmError, helm, render
from tests.unit.support import bridged

CONF = Path(__file__).parents[2] / "conf"
NAMESPACE = "kube-tulle"
JSON_KEYS = ("net-conf.json", "cni-conf.json", "agent.json")

Object = dict[str, Any]


def version() -> str:
    found = re.search(r'^version = "(.*)"$', (CONF.parent / "pyproject.toml").read_text(), re.MULTILINE)
    assert found is not None
    return found[1]


def manifest(name: str = "tulle.yaml") -> list[Object]:
    return list(yaml.safe_load_all((CONF / "kubernetes" / name).read_text()))


def one(kind: str) -> Object:
    found = [each for each in manifest() if each["kind"] == kind]
    assert len(found) == 1
    return found[0]


def pod() -> Object:
    spec: Object = one("DaemonSet")["spec"]["template"]["spec"]
    return spec


def agent() -> Object:
    container: Object = pod()["containers"][0]
    return container


def config(key: str) -> bytes:
    return str(one("ConfigMap")["data"][key]).encode()


def meaning(objects: list[Object]) -> list[Object]:
    """The objects by kind and name, with the JSON texts of the ConfigMap read, as the agent reads them."""
    for each in objects:
        if each["kind"] == "ConfigMap":
            each["data"] = {key: json.loads(text) for key, text in each["data"].items()}
    return sorted(objects, key=lambda each: (each["kind"], each["metadata"]["name"]))


def test_the_chart_renders_to_the_manifest() -> None:
    assert meaning(render()) == meaning(manifest())


def test_the_chart_gives_the_right_to_write_nodes_status_where_it_is_asked_for() -> None:
    asked = [each for each in render({"nodeStatus": True}) if each not in render()]
    assert asked == manifest("node-status.yaml")


def test_the_chart_has_the_policy_where_the_api_server_knows_such_an_object() -> None:
    known = render({}, "admissionregistration.k8s.io/v1/ValidatingAdmissionPolicy")
    assert [each for each in known if each not in render()] == manifest("policy.yaml")


def test_helm_finds_nothing_wrong_with_the_chart() -> None:
    assert "0 chart(s) failed" in helm("lint", "--strict", str(CHART))


def test_values_reach_the_objects() -> None:
    objects = render({
        "createNamespace": False,
        "image": {"repository": "registry.example/tulle"},
        "network": {"network": "10.9.0.0/16"},
        "env": [{"name": "KUBERNETES_SERVICE_HOST", "value": "192.0.2.10"}],
        "cniBinDir": "/srv/cni/bin",
        "tolerations": [],
    })
    kinds = [each["kind"] for each in objects]
    assert "Namespace" not in kinds
    settled: Any = objects[kinds.index("ConfigMap")]
    assert json.loads(settled["data"]["net-conf.json"]) == {"backend": {"type": "vxlan"}, "network": "10.9.0.0/16"}
    daemon: Any = objects[kinds.index("DaemonSet")]
    spec = daemon["spec"]["template"]["spec"]
    assert spec["containers"][0]["image"] == f"registry.example/tulle:{version()}"
    assert spec["containers"][0]["env"][-1] == {"name": "KUBERNETES_SERVICE_HOST", "value": "192.0.2.10"}
    assert {"name": "plugins", "hostPath": {"path": "/srv/cni/bin", "type": "DirectoryOrCreate"}} in spec["volumes"]
    assert spec["tolerations"] == []


def test_the_agent_may_list_and_watch_nodes_and_write_to_none() -> None:
    assert one("ClusterRole")["rules"] == [{"apiGroups": [""], "resources": ["nodes"], "verbs": ["list", "watch"]}]


def test_the_right_to_write_nodes_status_is_one_by_itself() -> None:
    role, binding = manifest("node-status.yaml")
    assert role["rules"] == [{"apiGroups": [""], "resources": ["nodes/status"], "verbs": ["patch"]}]
    assert binding["subjects"] == one("ClusterRoleBinding")["subjects"]
    assert binding["roleRef"]["name"] == role["metadata"]["name"] != one("ClusterRole")["metadata"]["name"]


def test_the_agent_may_read_its_own_configuration_and_write_leases_in_its_own_namespace() -> None:
    assert one("Role")["rules"] == [
        {"apiGroups": [""], "resources": ["configmaps"], "resourceNames": ["tulle-config"], "verbs": ["list", "watch"]},
        {
            "apiGroups": ["coordination.k8s.io"], "resources": ["leases"],
            "verbs": ["list", "watch", "create", "patch", "delete"],
        },
    ]
    assert one("Role")["metadata"]["namespace"] == NAMESPACE


def test_roles_are_bound_to_the_account_that_the_agent_runs_as() -> None:
    account = {"kind": "ServiceAccount", "name": pod()["serviceAccountName"], "namespace": NAMESPACE}
    for kind in ("ClusterRole", "Role"):
        binding = one(f"{kind}Binding")
        assert binding["subjects"] == [account]
        assert binding["roleRef"] == {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": "tulle"}
    assert one("ServiceAccount")["metadata"]["name"] == account["name"]


def test_all_is_in_one_namespace_which_lets_the_agent_run() -> None:
    home = one("Namespace")["metadata"]
    assert home["name"] == NAMESPACE
    assert home["labels"]["pod-security.kubernetes.io/enforce"] == "privileged"
    inside = [each for each in manifest() if each["kind"] not in ("Namespace", "ClusterRole", "ClusterRoleBinding")]
    assert {each["metadata"].get("namespace") for each in inside} == {NAMESPACE}


def test_the_image_is_that_of_this_version() -> None:
    images = {each["image"] for each in (*pod()["initContainers"], *pod()["containers"])}
    assert images == {f"localhost/tulle:{version()}"}
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert (chart["version"], chart["appVersion"]) == (version(), version())


def test_the_agents_settings_are_understood() -> None:
    read = msgspec.json.decode(config("agent.json"), type=settings.Settings)
    assert read.source == {"type": "kubernetes"}
    assert kubernetes.Conf().config_map == f"{NAMESPACE}/{one('ConfigMap')['metadata']['name']}"
    assert read.cni.path.startswith(f"{mounts()['networks']}/")
    assert read.cni.path.endswith(".conflist")


def test_the_network_configuration_is_understood() -> None:
    read = flannel.parse(json.loads(config("net-conf.json")))
    assert (read.backend, [str(each) for each in read.networks]) == ("vxlan", ["10.244.0.0/16"])


@pytest.mark.parametrize("where", ["manifest", "sample"])
def test_the_plugins_configuration_is_understood(where: str) -> None:
    text = config("cni-conf.json") if where == "manifest" else (CONF / "cni-conf.json").read_bytes()
    conf = conflist.completed(json.loads(text), "/run/tulle/cluster.json")
    ours: Any = conf["plugins"]
    read = bridged({**ours[0], "name": conf["name"], "cniVersion": conf["cniVersion"]})
    assert (read.type, read.bridge, read.cluster) == ("tulle", "tulle0", "/run/tulle/cluster.json")


@pytest.mark.parametrize(("name", "source"), [
    ("agent-kubernetes.json", "kubernetes"), ("agent-etcd.json", "etcd"), ("agent.json", "file"),
])
def test_samples_of_settings_are_understood(name: str, source: str) -> None:
    read = settings.load(str(CONF / name))
    shape = sources.find(source).Conf
    keys = {key: each for key, each in read.source.items() if key != "type"}
    known = {each.encode_name.lower() for each in msgspec.structs.fields(shape)}
    assert {key.lower() for key in keys} <= known, "a key that nobody reads would be passed over in silence"
    typed(keys, shape, "source")


def test_probes_ask_where_the_agent_answers() -> None:
    host, _, port = msgspec.json.decode(config("agent.json"), type=settings.Settings).metrics.rpartition(":")
    probes = {kind: agent()[f"{kind}Probe"]["httpGet"] for kind in ("startup", "liveness", "readiness")}
    assert {(each["host"], each["port"]) for each in probes.values()} == {(host, int(port))}
    assert [each["path"] for each in probes.values()] == ["/healthz", "/healthz", "/readyz"]


def mounts() -> dict[str, str]:
    return {each["name"]: each["mountPath"] for each in agent()["volumeMounts"]}


def test_the_agent_has_the_nodes_folders_where_the_node_has_them() -> None:
    paths = {each["name"]: each["hostPath"]["path"] for each in pod()["volumes"] if "hostPath" in each}
    assert {name: mounts()[name] for name in ("run", "netns", "leases", "networks", "plugins")} == {
        name: paths[name] for name in ("run", "netns", "leases", "networks", "plugins")
    }
    assert paths["run"] == DEFAULT_RUN_DIR
    assert f"{mounts()['sysctls']}" == f"{environ()['TULLE_PROC_SYS']['value']}/net"
    assert mounts()["config"] == str(Path(settings.DEFAULT_PATH).parent)


def environ() -> dict[str, Object]:
    return {each["name"]: each for each in agent()["env"]}


def test_namespaces_of_pods_to_come_are_seen() -> None:
    (netns,) = (each for each in agent()["volumeMounts"] if each["name"] == "netns")
    assert netns["mountPropagation"] == "HostToContainer"


def test_the_agent_knows_which_node_it_is_on() -> None:
    assert environ()["NODE_NAME"]["valueFrom"] == {"fieldRef": {"fieldPath": "spec.nodeName"}}


def test_no_container_is_privileged_and_none_can_write_to_its_own_files() -> None:
    for each in (*pod()["initContainers"], *pod()["containers"]):
        context = each["securityContext"]
        assert not context.get("privileged")
        assert not context["allowPrivilegeEscalation"]
        assert context["readOnlyRootFilesystem"]
        assert context["capabilities"]["drop"] == ["ALL"]
    assert agent()["securityContext"]["capabilities"]["add"] == ["NET_ADMIN", "NET_RAW", "SYS_ADMIN"]


def test_the_agent_runs_on_every_node_and_before_all_else() -> None:
    spec = pod()
    assert spec["tolerations"] == [{"operator": "Exists"}]
    assert spec["priorityClassName"] == "system-node-critical"
    assert spec["hostNetwork"]


def test_an_old_agent_ends_before_a_new_one_starts() -> None:
    daemon = one("DaemonSet")["spec"]
    assert daemon["updateStrategy"] == {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 1}}
    assert daemon["template"]["spec"]["terminationGracePeriodSeconds"] > 30, "requests under way are answered first"


SCHEMA: Any = json.loads((CHART / "values.schema.json").read_text())["properties"]


def keys_of(*structs: type[msgspec.Struct], spell: bool = True) -> set[str]:
    """The keys of these, as people write them."""
    fields = ((field, key) for each in structs for field, key in zip(
        each.__struct_fields__, each.__struct_encode_fields__, strict=True
    ))
    return {(spelled(field) if spell else key) for field, key in fields if "/" not in key}


@pytest.mark.parametrize(
    ("at", "known"),
    [
        ("agent", keys_of(settings.Settings, spell=False)),
        ("agent.address", keys_of(settings.AddressSettings, spell=False)),
        ("agent.cni", keys_of(settings.CniSettings, spell=False)),
        ("agent.source", {"type"} | keys_of(*(sources.find(each).Conf for each in sources.names()))),
        ("network", keys_of(NetworkKeys)),
        ("network.backend", {"type", "learning"} | keys_of(vxlan.Config) - {"wireMTU"}),
        (
            "cni.plugins",
            {"capabilities"} | keys_of(bridge.Conf, masquerade.Conf) - {"cniVersion", "name", "prevResult"},
        ),
        ("cni.plugins.ipam", keys_of(host_local.Conf)),
        ("cni.plugins.dns", keys_of(Dns)),
    ],
)
def test_the_charts_schema_knows_every_key_that_is_read_and_no_other(at: str, known: set[str]) -> None:
    place: Any = {"properties": SCHEMA}
    for step in at.split("."):
        place = place["properties"][step]
        place = place.get("items", place)
        place = place.get("then", place)
    assert set(place["properties"]) == known and place["additionalProperties"] is False


@pytest.mark.parametrize(
    "values",
    [
        {"agent": {"metrcis": "127.0.0.1:1"}}, {"agent": {"source": {"type": "etcd", "endpoint": ["http://a"]}}},
        {"agent": {"address": {"canreach": "192.0.2.1"}}}, {"network": {"Network": "10.9.0.0/16"}},
        {"network": {"backend": {"VNI": 7}}}, {"cni": {"plugin": []}},
        {"cni": {"plugins": [{"type": "tulle", "ipMask": True, "ipam": {"type": "host-local"}}]}},
        {"cni": {"plugins": [{"type": "tulle", "ipam": {"type": "host-local", "rangestart": "x"}}]}},
        {"updateStrategy": {"rollingUpdate": {"maxUnavailible": 1}}}, {"resources": {"limit": {}}},
        {"tolerations": [{"operater": "Exists"}]}, {"env": [{"name": "A", "val": "b"}]}, {"image": {"tags": "x"}},
    ],
)
def test_helm_refuses_a_value_that_nothing_reads_at_any_depth(values: dict[str, object]) -> None:
    with pytest.raises(HelmError, match="Additional property"):
        render(values)


def test_helm_takes_every_value_that_something_reads() -> None:
    render({
        "network": {"network": "10.9.0.0/16", "enableIPv6": True, "ipv6Network": "fd00::/48", "backend": {"vni": 7}},
        "agent": {"source": {"type": "etcd", "endpoints": ["http://192.0.2.9:2379"], "ttl": 60}, "mesh": False},
        "cni": {"plugins": [
            {"type": "tulle", "vlanTrunk": [{"minID": 1, "maxID": 2}], "ipam": {"type": "static", "addresses": []}},
            {"type": "portmap", "snat": True, "capabilities": {"portMappings": True}},
        ]},
        "tolerations": [{"key": "a", "operator": "Exists", "effect": "NoSchedule"}], "global": {"anything": 1},
    })
