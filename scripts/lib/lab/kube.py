"""A real Kubernetes in a lab's namespaces: its control plane on the wire, a containerd and a kubelet on each node.

It exists so that a person can play with Tulle as it is deployed, and a test can see it work, without machines:

    tulle-NAME-wire     etcd, kube-apiserver (192.0.2.254:6443), kube-controller-manager, kube-scheduler
    tulle-NAME-n1 ...   containerd, kubelet, kube-proxy (`kube_node.py`)
    /run/tulle-lab/NAME/kube/     keys, kubeconfigs, logs, pids, etcd's data; below n1/ the node's disk

Promises: nothing of it can reach or be reached from the machine's own network; `labs.down` ends all of it. No node is
Ready before something writes a CNI configuration on it: what that is, the caller says.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import cast

from scripts.lib.lab import kube_node, namespaces
from scripts.lib.lab.kube_parts import Keys, release, search_path, write_image
from scripts.lib.lab.runtime import Json
from scripts.lib.lab.topology import LABS, LINK_NETS, POD_NETS, ROUTER, LabError, Node, Spec, host

SERVICE_NETS = {4: "10.96.0.0/16", 6: "fd00:10:96::/112"}
PORT = 6443
ETCD = "http://127.0.0.1:2379"
LONG = 180.0


class Kube:
    """The Kubernetes of a lab; its parts are started one by one, so that a test can stop one."""

    def __init__(self, spec: Spec) -> None:
        self.spec = spec
        self.folder = LABS / spec.name / "kube"
        self.keys = Keys(self.folder / "keys")
        self.path = search_path()
        self.address = host(LINK_NETS[1, 4], ROUTER)
        self._children: list[subprocess.Popen[bytes]] = []

    @cached_property
    def release(self) -> tuple[int, int]:
        """Which Kubernetes it is: some of what is said to it depends on that."""
        return release(self.path)

    @property
    def server(self) -> str:
        """The API server's address."""
        return f"https://{self.address}:{PORT}"

    @property
    def gates(self) -> str:
        """Before 1.21, two families are a feature that must be asked for."""
        return "--feature-gates=IPv6DualStack=true" if 6 in self.spec.families and self.release < (1, 21) else ""

    def up(self) -> None:
        """Keys, image and control plane: the API answers when this returns. Raises LabError."""
        (self.folder / "log").mkdir(parents=True)
        write_image(self.folder / "image.tar")
        self.keys.make_authority()
        names = ["kubernetes", "kubernetes.default", "kubernetes.default.svc", "localhost"]
        addresses = ["127.0.0.1", self.address, host(SERVICE_NETS[4], 1)]
        alternative = ",".join([*(f"DNS:{each}" for each in names), *(f"IP:{each}" for each in addresses)])
        self.keys.sign("apiserver", "/CN=kube-apiserver", f"subjectAltName={alternative}",
                       "extendedKeyUsage=serverAuth")
        self.keys.sign("to-kubelet", "/O=system:masters/CN=kube-apiserver", "extendedKeyUsage=clientAuth")
        self.keys.kubeconfig("admin", "/O=system:masters/CN=admin", self.server)
        for each in ("etcd", "kube-apiserver"):
            self.start(each)
        self.wait(lambda: self.try_kubectl("get", "--raw=/readyz") is not None, "the API answers")
        for each in ("kube-controller-manager", "kube-scheduler"):
            self.start(each)

    def start(self, name: str) -> None:
        """Starts a part of the control plane by its name."""
        words: Callable[[], str] = {
            "etcd": self._etcd, "kube-apiserver": self._apiserver,
            "kube-controller-manager": self._controllers, "kube-scheduler": self._scheduler,
        }[name]
        with (self.folder / "log" / name).open("ab") as log:
            process = subprocess.Popen(
                [*namespaces.inside(self.spec.wire), *words().split()],
                env={"PATH": self.path, "HOME": str(self.folder)},
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, cwd="/",
            )
        (self.folder / f"{name}.pid").write_text(str(process.pid))
        self._children.append(process)

    def stop(self, name: str) -> None:
        """Ends a part of the control plane, as if it had crashed."""
        pid = int((self.folder / f"{name}.pid").read_text())
        os.kill(pid, signal.SIGKILL)
        kube_node.wait_until_gone(pid)

    def boot(self, node: Node) -> None:
        """Starts a node, the first time or again. Returns at once: `ready` waits."""
        folder = self.node_folder(node.name)
        kubeconfig = self.keys.kubeconfig(node.name, f"/O=system:nodes/CN=system:node:{node.name}", self.server)
        proxy = self.keys.kubeconfig("proxy", "/CN=system:kube-proxy", self.server)
        conf = folder / "conf"
        conf.mkdir(parents=True, exist_ok=True)
        (conf / "containerd.toml").write_text(kube_node.containerd_conf(self.path))
        kubelet = kube_node.kubelet_conf(node, self.keys.folder / "ca.crt", self.release)
        (conf / "kubelet.json").write_text(json.dumps(kubelet))
        (conf / "kube-proxy.json").write_text(
            json.dumps(kube_node.proxy_conf(node, proxy, self._nets(POD_NETS), gated=bool(self.gates)))
        )
        command = kube_node.kubelet_command(node, folder, kubeconfig, self.release, self.gates)
        kube_node.boot(node, folder, self.path, command)

    def node_folder(self, name: str) -> Path:
        """Where a node keeps its disk."""
        return self.folder / name

    def on(self, node: str, *argv: str, check: bool = True) -> str:
        """Runs a command in all namespaces of a node; what it printed. Raises CommandError."""
        words = [*kube_node.inside(self.node_folder(node)), *argv]
        done = namespaces.attempt(words, env={"PATH": self.path})
        if check and done.returncode != 0:
            raise namespaces.CommandError(words, done)
        return done.stdout

    def import_image(self, node: str, archive: Path) -> None:
        """Gives a node an image, as a registry would. Waits for containerd. Raises LabError, CommandError."""
        self.wait_for_containerd(node)
        self.on(node, "ctr", "-n", "k8s.io", "images", "import", str(archive))

    def wait_for_containerd(self, node: str) -> None:
        """Until it runs and has the image of the lab's own pods. Raises LabError."""
        self.wait(lambda: kube_node.has_image(self.node_folder(node)), f"containerd of {node} runs")

    def kubectl_words(self) -> list[str]:
        """The command line of kubectl, as the cluster's administrator."""
        options = [f"--kubeconfig={self.keys.folder}/admin.kubeconfig", f"--cache-dir={self.folder}/cache"]
        return [*namespaces.inside(self.spec.wire), "kubectl", *options]

    def kubectl(self, *words: str, stdin: str = "", timeout: float = LONG) -> str:
        """What kubectl printed. Raises CommandError."""
        argv = [*self.kubectl_words(), *words]
        done = namespaces.attempt(argv, stdin=stdin, env={"PATH": self.path}, timeout=timeout)
        if done.returncode != 0:
            raise namespaces.CommandError(["kubectl", *words], done)
        return done.stdout

    def try_kubectl(self, *words: str) -> str | None:
        """What kubectl printed, None when it failed."""
        try:
            return self.kubectl(*words)
        except namespaces.CommandError:
            return None

    def get(self, *words: str) -> Json:
        """An object, or a list of them, as JSON. Raises CommandError."""
        return cast(Json, json.loads(self.kubectl("get", "-o", "json", *words)))

    def ready(self, *nodes: str) -> None:
        """Waits until the nodes are Ready. Raises LabError."""
        self.wait(lambda: all(self.conditions(each).get("Ready") == "True" for each in nodes),
                  f"{', '.join(nodes)} Ready")

    def conditions(self, node: str) -> dict[str, str]:
        """The node's conditions, by type; none for a node that the API does not know."""
        text = self.try_kubectl("get", "node", node, "-o", "json")
        rows = json.loads(text)["status"].get("conditions", []) if text else []
        return {row["type"]: row["status"] for row in rows}

    def wait(self, condition: Callable[[], bool], what: str, seconds: float = LONG) -> None:
        """Until it holds. Raises LabError."""
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                raise LabError(f"not within {seconds:g} s: {what}; see {self.folder}/log")
            time.sleep(0.1)

    def _nets(self, nets: dict[int, str]) -> str:
        return ",".join(nets[family] for family in self.spec.families)

    def _etcd(self) -> str:
        return (
            f"etcd --data-dir {self.folder}/etcd --log-level warn "
            f"--listen-client-urls {ETCD} --advertise-client-urls {ETCD} "
            "--listen-peer-urls http://127.0.0.1:2380 --initial-advertise-peer-urls http://127.0.0.1:2380 "
            "--initial-cluster default=http://127.0.0.1:2380"
        )

    def _apiserver(self) -> str:
        keys = self.keys.folder
        return (
            f"kube-apiserver --etcd-servers={ETCD} --bind-address={self.address} --secure-port={PORT} "
            f"--advertise-address={self.address} --allow-privileged=true {self.gates} "
            f"--tls-cert-file={keys}/apiserver.crt --tls-private-key-file={keys}/apiserver.key "
            f"--client-ca-file={keys}/ca.crt --kubelet-preferred-address-types=InternalIP "
            f"--kubelet-client-certificate={keys}/to-kubelet.crt --kubelet-client-key={keys}/to-kubelet.key "
            f"--service-account-key-file={keys}/accounts.pub --service-account-signing-key-file={keys}/accounts.key "
            "--service-account-issuer=https://kubernetes.default.svc --authorization-mode=Node,RBAC "
            f"--enable-admission-plugins=NodeRestriction --service-cluster-ip-range={self._nets(SERVICE_NETS)} "
            f"--cert-dir={self.folder}/apiserver-certs"
        )

    def _controllers(self) -> str:
        keys = self.keys.folder
        conf = self.keys.kubeconfig("controllers", "/CN=system:kube-controller-manager", self.server)
        return (
            f"kube-controller-manager --kubeconfig={conf} --leader-elect=false --bind-address=127.0.0.1 {self.gates} "
            f"--cert-dir={self.folder}/controllers-certs --allocate-node-cidrs --cluster-cidr={self._nets(POD_NETS)} "
            f"--service-cluster-ip-range={self._nets(SERVICE_NETS)} --use-service-account-credentials "
            f"--service-account-private-key-file={keys}/accounts.key --root-ca-file={keys}/ca.crt "
            f"--cluster-signing-cert-file={keys}/ca.crt --cluster-signing-key-file={keys}/ca.key"
        )

    def _scheduler(self) -> str:
        conf = self.keys.kubeconfig("scheduler", "/CN=system:kube-scheduler", self.server)
        return (
            f"kube-scheduler --kubeconfig={conf} --leader-elect=false --bind-address=127.0.0.1 "
            f"--cert-dir={self.folder}/scheduler-certs"
        )
