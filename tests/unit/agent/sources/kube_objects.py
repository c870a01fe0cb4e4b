"""Node objects as API servers list them, of realistic size, for tests and for measuring."""

from __future__ import annotations

from typing import Any

Object = dict[str, Any]
FLANNEL = "flannel.alpha.coreos.com"


def node(name: str, cidrs: str = "", addresses: str = "", **notes: str) -> Object:
    """A node with these subnets, InternalIPs (as words) and annotations (keys with `__` for `/`, `_` for `-`)."""
    subnets = cidrs.split()
    spec: Object = {"podCIDR": subnets[0], "podCIDRs": subnets} if subnets else {}
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": name,
            "uid": uid(name),
            "creationTimestamp": "2026-05-01T10:00:00Z",
            "annotations": {key.replace("__", "/").replace("_", "-"): each for key, each in notes.items()},
        },
        "spec": spec,
        "status": {"addresses": [{"type": "InternalIP", "address": each} for each in addresses.split()]},
    }


def uid(name: str) -> str:
    """A node's UID, which its Lease names as its owner's."""
    return f"0d6ab1a0-7a4c-4b7e-9f37-{name}"


def lease(name: str, owner: str = "", **notes: str) -> Object:
    """The Lease by which a node announces these, keys without their prefix and with `_` for `-`."""
    return {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {
            "name": name,
            "annotations": {f"tulle.network/{key.replace('_', '-')}": each for key, each in notes.items()},
            "ownerReferences": [{"apiVersion": "v1", "kind": "Node", "name": name, "uid": owner or uid(name)}],
        },
        "spec": {"holderIdentity": name},
    }


def flannel_notes(address: str, mac: str) -> dict[str, str]:
    """What flannel's vxlan backend annotates (pkg/subnet/kube/kube.go)."""
    return {
        f"{FLANNEL}/backend-data": f'{{"VNI":1,"VtepMAC":"{mac}"}}',
        f"{FLANNEL}/backend-type": "vxlan",
        f"{FLANNEL}/kube-subnet-manager": "true",
        f"{FLANNEL}/public-ip": address,
    }


def big_node(index: int) -> Object:
    """Node number `index` of a cluster of up to 65,000, of about 9 kB: with what kubelets of 1.35 fill in."""
    third, fourth = divmod(index, 250)
    found = node(f"node-{index:05}", f"10.{third}.{fourth}.0/24", f"172.20.{third}.{fourth + 1}")
    meta, status = found["metadata"], found["status"]
    meta["labels"] = {f"topology.example.org/label-{each}": f"value-{each}" for each in range(12)}
    meta["annotations"] = {
        "node.alpha.kubernetes.io/ttl": "15",
        "volumes.kubernetes.io/controller-managed-attach-detach": "true",
        "csi.volume.kubernetes.io/nodeid": f'{{"disk.csi.example.org":"node-{index:05}"}}',
    }
    status["addresses"].append({"type": "Hostname", "address": meta["name"]})
    resources = {"cpu": "8", "ephemeral-storage": "101430960Ki", "hugepages-2Mi": "0", "memory": "32Gi", "pods": "110"}
    status["capacity"] = status["allocatable"] = resources
    status["conditions"] = [_condition(kind) for kind in ("MemoryPressure", "DiskPressure", "PIDPressure", "Ready")]
    status["images"] = [_image(each) for each in range(40)]
    status["nodeInfo"] = {
        "architecture": "amd64", "bootID": "f2b7", "containerRuntimeVersion": "containerd://2.1.4",
        "kernelVersion": "6.18.0", "kubeProxyVersion": "", "kubeletVersion": "v1.35.0", "machineID": "5e0a",
        "operatingSystem": "linux", "osImage": "Debian GNU/Linux 13 (trixie)", "swap": {"capacity": 0},
        "systemUUID": "5e0a",
    }
    status["daemonEndpoints"] = {"kubeletEndpoint": {"Port": 10250}}
    return found


def recorded() -> Object:
    """A dual-stack node as Kubernetes 1.35 lists it, with the fields that 1.20 has not."""
    found = big_node(258)
    found["spec"] |= {
        "podCIDR": "10.244.3.0/24", "podCIDRs": ["10.244.3.0/24", "fd00:10:244:3::/64"], "providerID": "example://eu/3",
        "taints": [{"effect": "NoSchedule", "key": "example.org/gpu", "timeAdded": "2026-05-01T10:00:01Z"}],
    }
    found["metadata"]["managedFields"] = [
        {"apiVersion": "v1", "fieldsType": "FieldsV1", "fieldsV1": {"f:status": {"f:runtimeHandlers": {}}},
         "manager": "kubelet", "operation": "Update", "subresource": "status", "time": "2026-05-01T10:00:05Z"},
    ]
    found["status"] |= {
        "addresses": [
            {"type": "InternalIP", "address": "2001:db8::13"},
            {"type": "ExternalIP", "address": "203.0.113.13"},
            {"type": "InternalIP", "address": "192.0.2.13"},
            {"type": "InternalIP", "address": "192.0.2.113"},
            {"type": "Hostname", "address": "n3"},
        ],
        "declaredFeatures": ["GuaranteedQoSPodCPUResize"],
        "features": {"supplementalGroupsPolicy": True},
        "runtimeHandlers": [{"name": "", "features": {"recursiveReadOnlyMounts": True, "userNamespaces": True}}],
        "volumesInUse": None,
    }
    return found


def _condition(kind: str) -> Object:
    return {
        "lastHeartbeatTime": "2026-05-01T10:00:05Z", "lastTransitionTime": "2026-05-01T10:00:01Z",
        "message": f"kubelet has sufficient resources for {kind}", "reason": f"KubeletHasNo{kind}",
        "status": "False", "type": kind,
    }


def _image(index: int) -> Object:
    digest = f"{index:064x}"
    name = f"registry.example.org/team-{index % 7}/service-{index}"
    return {"names": [f"{name}@sha256:{digest}", f"{name}:v1.{index}.0"], "sizeBytes": 10_000_000 + index}
