"""A real kube-apiserver with its etcd, and nothing else: Node objects by hand, in a network namespace of its own.

    with ControlPlane(folder) as plane, plane.inside():
        plane.request("POST", "/api/v1/nodes", {"metadata": {"name": "n1"}})

Everything ends with the process that made it, whatever ends that one. The namespace has no name and no link to the
machine's own: the thread that is `inside` is in it, with the threads that it starts there.
"""

from __future__ import annotations

import ctypes
import http.client
import json
import os
import signal
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import cast

from scripts.lib.lab.kube_parts import Keys, lacks, search_path
from tests.conformance.nodes import Json
from tests.pace import until

NEEDED = ("etcd", "kube-apiserver", "kube-controller-manager")
TOOLS = ("openssl", "unshare", "nsenter", "setpriv", "ip", "ss", "nft")
PORT = 16443
SERVER = f"https://127.0.0.1:{PORT}"
_CLONE_NEWNET = 0x40000000


def missing() -> str:
    """Why there can be none here, "" when there can."""
    return lacks(NEEDED, TOOLS)


class ControlPlane:
    """`close` it in the end. `kubeconfig` is the administrator's."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._path = search_path(NEEDED)
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        hold = ["setpriv", "--pdeathsig", "KILL", "--", "unshare", "--net", "sleep", "infinity"]
        self._holder = subprocess.Popen(hold, stdin=subprocess.DEVNULL)
        try:
            self._begin()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> ControlPlane:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    @contextmanager
    def inside(self) -> Iterator[None]:
        """This thread, and those that it starts, in the network of the API server."""
        home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        try:
            _enter(os.open(self._netns, os.O_RDONLY))
            yield
        finally:
            _enter(home)

    def start(self, name: str) -> None:
        """Starts a part by its name."""
        words = {"etcd": self._etcd, "kube-apiserver": self._apiserver, "kube-controller-manager": self._controllers}
        enter = ["setpriv", "--pdeathsig", "KILL", "--", "nsenter", f"--net={self._netns}", "--"]
        with (self._folder / f"{name}.log").open("ab") as log:
            self._processes[name] = subprocess.Popen(
                [*enter, *words[name]().split()], env={"PATH": self._path, "HOME": str(self._folder)},
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/",
            )

    def kill(self, name: str) -> None:
        """Ends a part, as if it had crashed."""
        process = self._processes.pop(name)
        process.send_signal(signal.SIGCONT)
        process.kill()
        process.wait()

    def pause(self, name: str) -> None:
        """A part says nothing more, and its connections stay."""
        self._processes[name].send_signal(signal.SIGSTOP)

    def go_on(self, name: str) -> None:
        """And speaks again."""
        self._processes[name].send_signal(signal.SIGCONT)

    @contextmanager
    def severed(self) -> Iterator[None]:
        """Not a packet of the connections that there are to the API arrives any more; new ones work. `inside`.

        Those that the server has to itself go on: without them it answers 500 to whatever comes in the next test.
        """
        lines = subprocess.run(
            ["ss", "-Htnp", "state", "established", f"( dport = :{PORT} )"], capture_output=True, text=True, check=True
        ).stdout.splitlines()
        ports = ", ".join(line.split()[2].rpartition(":")[2] for line in lines if '"kube-apiserver"' not in line)
        assert ports
        rules = (
            "table inet severed { chain input { type filter hook input priority 0;"
            f" tcp sport {{ {ports} }} drop; tcp dport {{ {ports} }} drop; }}; }}\n"
        )
        subprocess.run(["nft", "-f", "-"], input=rules, text=True, check=True)
        try:
            yield
        finally:
            subprocess.run(["nft", "delete", "table", "inet", "severed"], check=True)

    def wait_ready(self, seconds: float = 60.0) -> None:
        """Until the API answers; to be called `inside`."""
        log = self._folder / "kube-apiserver.log"
        until(self._is_ready, "the API answers", patience=seconds, why=lambda: log.read_text()[-2000:])

    def request(self, method: str, path: str, body: Json | None = None, token: str = "") -> Json:
        """What the API answers the administrator, or the bearer of a token; to be called `inside`."""
        kinds = {"PATCH": "application/merge-patch+json"}
        headers = {"Content-Type": kinds.get(method, "application/json")}
        if token:
            headers["Authorization"] = f"Bearer {token}"
        tls = self._tls(certificate=not token)
        connection = http.client.HTTPSConnection("127.0.0.1", PORT, timeout=20, context=tls)
        try:
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            answer = connection.getresponse()
            said = answer.read()
        finally:
            connection.close()
        assert answer.status < 300, f"{method} {path}: {answer.status} {said[:400]!r}"
        return cast(Json, json.loads(said)) if answer.headers.get("Content-Type") == "application/json" else {}

    def token(self, namespace: str, account: str) -> str:
        """A token of a service account, good for ten minutes; to be called `inside`."""
        asked = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": 600}}
        path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token"
        status = cast(Json, self.request("POST", path, cast(Json, asked))["status"])
        return str(status["token"])

    def kubeconfig_of(self, name: str, subject: str) -> Path:
        """A file for a client that is this subject, such as /O=system:nodes/CN=system:node:n1."""
        return self._keys.kubeconfig(name, subject, SERVER)

    def in_cluster(self, folder: Path, namespace: str, token: str) -> dict[str, str]:
        """Writes what a pod is given to speak to the API, and returns the pod's environment."""
        (folder / "token").write_text(token)
        (folder / "namespace").write_text(namespace)
        (folder / "ca.crt").write_bytes((self._keys.folder / "ca.crt").read_bytes())
        return {"KUBERNETES_SERVICE_HOST": "127.0.0.1", "KUBERNETES_SERVICE_PORT": str(PORT)}

    def close(self) -> None:
        """End it all."""
        for name in list(self._processes):
            self.kill(name)
        self._holder.kill()
        self._holder.wait()

    @property
    def _netns(self) -> str:
        return f"/proc/{self._holder.pid}/ns/net"

    def _begin(self) -> None:
        self._wait_for_namespace()
        subprocess.run(["nsenter", f"--net={self._netns}", "ip", "link", "set", "lo", "up"], check=True)
        self._keys = Keys(self._folder / "keys")
        self._keys.make_authority()
        self._keys.sign(
            "apiserver", "/CN=kube-apiserver", "subjectAltName=IP:127.0.0.1", "extendedKeyUsage=serverAuth"
        )
        self.kubeconfig = self._keys.kubeconfig("admin", "/O=system:masters/CN=admin", SERVER)
        self.start("etcd")
        self.start("kube-apiserver")
        with self.inside():
            self.wait_ready()

    def _wait_for_namespace(self) -> None:
        own = os.stat("/proc/self/ns/net").st_ino
        until(
            lambda: self._holder.poll() is not None or os.stat(self._netns).st_ino != own, "unshare makes a namespace"
        )
        assert self._holder.poll() is None, "unshare --net does not work here"

    def _is_ready(self) -> bool:
        try:
            self.request("GET", "/readyz")
            self.request("GET", "/api/v1/namespaces/default")
        except (OSError, AssertionError, http.client.HTTPException):
            return False
        return True

    def _tls(self, *, certificate: bool) -> ssl.SSLContext:
        keys = self._keys.folder
        context = ssl.create_default_context(cafile=str(keys / "ca.crt"))
        if certificate:
            context.load_cert_chain(keys / "admin.crt", keys / "admin.key")
        return context

    def _etcd(self) -> str:
        return f"etcd --data-dir {self._folder}/etcd --unsafe-no-fsync --log-level warn"

    def _apiserver(self) -> str:
        keys = self._keys.folder
        return (
            "kube-apiserver --etcd-servers=http://127.0.0.1:2379 --bind-address=127.0.0.1 "
            f"--advertise-address=127.0.0.1 --endpoint-reconciler-type=none --secure-port={PORT} "
            f"--tls-cert-file={keys}/apiserver.crt --tls-private-key-file={keys}/apiserver.key "
            f"--client-ca-file={keys}/ca.crt --service-account-key-file={keys}/accounts.pub "
            f"--service-account-signing-key-file={keys}/accounts.key "
            "--service-account-issuer=https://kubernetes.default.svc --authorization-mode=Node,RBAC "
            "--enable-admission-plugins=NodeRestriction,OwnerReferencesPermissionEnforcement "
            f"--service-cluster-ip-range=10.96.0.0/16 --cert-dir={self._folder}/certs"
        )

    def _controllers(self) -> str:
        keys = self._keys.folder
        return (
            f"kube-controller-manager --kubeconfig={self.kubeconfig} --leader-elect=false --bind-address=127.0.0.1 "
            f"--cert-dir={self._folder}/certs --allocate-node-cidrs --cluster-cidr=10.244.0.0/16 "
            f"--service-account-private-key-file={keys}/accounts.key --root-ca-file={keys}/ca.crt "
            "--controllers=nodeipam,serviceaccount,serviceaccount-token,garbagecollector"
        )


def _enter(fd: int) -> None:
    """setns(2) for this thread alone; the descriptor is closed."""
    libc = ctypes.CDLL(None, use_errno=True)
    try:
        if libc.setns(fd, _CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "setns")
    finally:
        os.close(fd)
