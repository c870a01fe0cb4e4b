"""Tulle on a lab's Kubernetes, as a user puts it on a real one: the image, and conf/kubernetes/tulle.yaml.

    scripts/image; ctr -n k8s.io images import dist/tulle-image.tar       on each node: here is no registry
    kubectl apply -f conf/kubernetes/tulle.yaml

The manifest is applied as it is but for the network's configuration, which is the lab's: its families, its backend.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import cast

from scripts.lib.lab import namespaces
from scripts.lib.lab.agents import network_conf
from scripts.lib.lab.kube import Kube
from scripts.lib.lab.kube_parts import IMAGE
from scripts.lib.lab.runtime import Json
from scripts.lib.lab.topology import REPO, LabError

MANIFEST = REPO / "conf" / "kubernetes" / "tulle.yaml"
NAMESPACE = "kube-tulle"
WEB = "mkdir -p /tmp/www; echo $(hostname) >/tmp/www/index.html; exec httpd -f -p 8080 -h /tmp/www"


def give_image(kube: Kube, node: str) -> None:
    """A node gets the image of the lab's bundle. Raises LabError, CommandError."""
    kube.import_image(node, image_of(Path(kube.spec.plugin).parent, kube.folder))


def image_of(bundle: Path, scratch: Path) -> Path:
    """The bundle's image: what scripts/image has made beside it if that is not older, else one made in `scratch`."""
    beside, own = bundle.with_name("tulle-image.tar"), scratch / "tulle-image.tar"
    if beside.exists() and beside.stat().st_mtime >= (bundle / "release").stat().st_mtime:
        return beside
    if not own.exists():
        argv = [sys.executable, str(REPO / "scripts" / "image"), "--bundle", str(bundle), "--output", str(own)]
        done = namespaces.attempt(argv, timeout=120)
        if done.returncode != 0:
            raise LabError(f"no image of {bundle}: {done.stderr.strip()}")
    return own


def apply(kube: Kube, **env: str) -> None:
    """Has Kubernetes run the agents, these variables added to their environment. Raises CommandError."""
    objects = objects_of(kube)
    for each in objects:
        if each["kind"] == "ConfigMap":
            data = cast(Json, each["data"])
            data["net-conf.json"] = json.dumps(network_conf(kube.spec))
        if each["kind"] == "DaemonSet":
            pod = cast(Json, cast(Json, cast(Json, each["spec"])["template"])["spec"])
            (agent,) = cast(list[Json], pod["containers"])
            cast(list[Json], agent["env"]).extend({"name": name, "value": value} for name, value in env.items())
    kube.kubectl("apply", "-f", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": objects}))


def objects_of(kube: Kube) -> list[Json]:
    """The manifest's objects. Raises CommandError."""
    text = kube.kubectl("create", "--dry-run=client", "-o", "json", "-f", str(MANIFEST))
    return list(_documents(text))


def run_web(kube: Kube, replicas: int) -> None:
    """Pods that tell their names by HTTP, behind the Service `web`; returns when all run. Raises LabError."""
    labels = {"app": "web"}
    pod = {
        "terminationGracePeriodSeconds": 0,
        "containers": [{
            "name": "web", "image": IMAGE, "imagePullPolicy": "Never", "command": ["sh", "-c", WEB],
            "ports": [{"containerPort": 8080}],
        }],
    }
    objects = [
        {
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"},
            "spec": {
                "replicas": replicas, "selector": {"matchLabels": labels},
                "template": {"metadata": {"labels": labels}, "spec": pod},
            },
        },
        {
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"},
            "spec": {"selector": labels, "ports": [{"port": 80, "targetPort": 8080}]},
        },
    ]
    kube.kubectl("apply", "-f", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": objects}))
    kube.kubectl("rollout", "status", "deployment/web", "--timeout=60s", timeout=90)


def _documents(text: str) -> list[Json]:
    """JSON objects one after the other, and the members of each that is a list."""
    found: list[Json] = []
    decoder, at = json.JSONDecoder(), 0
    while at < len(text):
        value, end = decoder.raw_decode(text, at)
        found += value["items"] if value["kind"] == "List" else [value]
        at = end + len(text[end:]) - len(text[end:].lstrip())
    return found
