"""One node of a Kubernetes on this machine: namespaces of its own, with its own containerd, kubelet and kube-proxy.

It exists because two kubelets on one machine would fight over the same folders, mounts and cgroups. A node lives in the
network namespace that the lab made for it, and in mount, PID, UTS and IPC namespaces of its own:

    /etc /opt /var     overlays over the machine's: what the node writes stays in the node's folder, over a reboot too
    /run               empty at every boot
    /sys               of its own network namespace, with the machine's cgroup hierarchies bound back
    tulle-NAME-n1      its cgroup in every hierarchy, above all of its pods

Promises: killing the node's first process ends everything that ran on it, pods included; the machine's own /etc, /opt,
/var and /run are not written to. Tried with Kubernetes 1.20 and containerd 1.6 on cgroup v1.
"""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

from scripts.lib.lab import namespaces
from scripts.lib.lab.kube_parts import IMAGE
from scripts.lib.lab.topology import LABS, LabError, Node

REFERENCE_PLUGINS = Path("/usr/lib/cni")
"""Debian's containernetworking-plugins: containerd itself calls `loopback`, and a chain may want others."""

# The first process: sets the namespaces up, starts the daemons and reaps what they leave.
# - the machine's mounts below those folders would be hidden, yet containerd finds them in its list of mounts; one that
#   somebody unlinks meanwhile, as the name of a network namespace, has left our list too: mount_namespaces(7)
# - the lab's own folder lies in /run: it is bound into the node's
# - the agent's image may mount /run, and what it mounts there must be seen outside of its container: rshared
# - containerd's snapshots cannot lie on an overlay, so /var/lib/containerd is a bind
# - cpuset groups are born without cpus and memory nodes in cgroup v1, and nothing can run in them then
BOOT = r"""
set -e
hostname "$NODE"
mount --make-rprivate /
awk '$2 ~ "^/(etc|opt|var|run)/" { print $2 }' /proc/mounts | sort -r | xargs -r -n 1 umount -q -l || true
mkdir -p "$DISK"/containerd "$DISK"/kubelet "$DISK"/cgroup
rm -rf "$DISK"/run
mkdir -p "$DISK"/run/netns "$DISK"/run/lock "$DISK$LAB"
mount --bind "$LAB" "$DISK$LAB"
mount --rbind /sys/fs/cgroup "$DISK"/cgroup
mount -t sysfs sysfs /sys
mount --rbind "$DISK"/cgroup /sys/fs/cgroup
umount -l "$DISK"/cgroup
for each in etc opt var; do
    mkdir -p "$DISK"/$each "$DISK"/.$each
    mount -t overlay overlay -o "lowerdir=/$each,upperdir=$DISK/$each,workdir=$DISK/.$each" /$each
done
if [ ! -e "$DISK"/installed ]; then
    rm -rf /etc/cni /opt/cni /var/lib/cni /var/lib/containerd /var/lib/kubelet /opt/tulle /etc/tulle
    mkdir -p /etc/cni/net.d /opt/cni/bin /var/lib/cni /var/lib/containerd /var/lib/kubelet /var/log/pods
    [ ! -d "$PLUGINS" ] || ln -s "$PLUGINS"/* /opt/cni/bin
    touch "$DISK"/installed
fi
for each in containerd kubelet; do
    mount --bind "$DISK"/$each /var/lib/$each
    mount --make-rshared /var/lib/$each
done
mount --rbind "$DISK"/run /run
mount --make-rshared /run
printf '127.0.0.1 localhost\n%s %s\n' "$ADDRESS" "$NODE" >/etc/hosts
printf 'nameserver 10.96.0.10\n' >/etc/resolv.conf
for each in $CGROUPS; do
    mkdir -p "$each"
    for what in cpuset.cpus cpuset.mems; do
        [ ! -e "$each"/$what ] || cat "${each%/*}"/$what >"$each"/$what
    done
done
for each in ipv4/ip_forward ipv6/conf/all/forwarding; do echo 1 >/proc/sys/net/$each; done
export TMPDIR=/var/tmp
containerd -c "$CONF"/containerd.toml >>"$LOGS"/$NODE-containerd 2>&1 &
until ctr version >/dev/null 2>&1; do sleep 0.1; done
ctr -n k8s.io images import "$CONF"/../../image.tar >>"$LOGS"/$NODE-containerd 2>&1
touch /run/containerd/has-image
if [ "$KUBELET" ]; then
    $KUBELET >>"$LOGS"/$NODE-kubelet 2>&1 &
    kube-proxy --config="$CONF"/kube-proxy.json >>"$LOGS"/$NODE-kube-proxy 2>&1 &
fi
while :; do wait -n || sleep 1; done
"""
CONTAINERD = """version = 2
root = "/var/lib/containerd"
state = "/run/containerd"
oom_score = 0
disabled_plugins = ["io.containerd.internal.v1.opt"]
[grpc]
  address = "/run/containerd/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{image}"
  restrict_oom_score_adj = true
  stream_server_address = "127.0.0.1"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/opt/cni/bin"
    conf_dir = "/etc/cni/net.d"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
      BinaryName = "{runc}"
"""
KUBELET = (
    "kubelet --config={conf}/kubelet.json --kubeconfig={kubeconfig} --hostname-override={node} --node-ip={address} "
    "--cert-dir=/var/lib/kubelet/pki {more}"
)
RUNTIME = "unix:///run/containerd/containerd.sock"
IN_CONFIGURATION = (1, 27)
"""From this release on a kubelet reads its runtime from its configuration, and does not know --container-runtime."""
CGROUP_V1_IS_OLD = (1, 31)
"""From this release on it must be told that cgroup v1 will do."""


def hierarchies() -> list[Path]:
    """The roots of the machine's cgroups: one in version 2, one a controller in version 1."""
    root = Path("/sys/fs/cgroup")
    every = [root] if (root / "cgroup.controllers").exists() else sorted(root.glob("*"))
    return [each for each in every if (each / "cgroup.procs").exists()]


def boot(node: Node, folder: Path, path: str, kubelet: str) -> None:
    """Starts a node whose configuration is in `folder`/conf and whose disk is `folder`/disk.

    `path` is where the executables are, `kubelet` its command line, "" for containerd alone. Returns at once.
    """
    environment = {
        "PATH": path, "HOME": "/root", "NODE": node.name, "ADDRESS": node.addresses[0], "KUBELET": kubelet,
        "DISK": str(folder / "disk"), "CONF": str(folder / "conf"), "LOGS": str(folder.parent / "log"),
        "LAB": str(LABS / node.spec.name),
        "PLUGINS": str(REFERENCE_PLUGINS), "CGROUPS": " ".join(str(each / node.netns) for each in hierarchies()),
    }
    image_mark(folder).unlink(missing_ok=True)
    words = "unshare -m -u -i -p --fork --kill-child --propagation private --mount-proc bash -c"
    with (folder.parent / "log" / f"{node.name}-boot").open("ab") as log:
        process = subprocess.Popen(
            [*namespaces.inside(node.netns), *words.split(), BOOT],
            env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, cwd="/",
        )
    (folder / "pid").write_text(str(process.pid))


def image_mark(folder: Path) -> Path:
    """A file that is there once containerd runs and has the image of the lab's own pods."""
    return folder / "disk" / "run" / "containerd" / "has-image"


def has_image(folder: Path) -> bool:
    """Whether `image_mark` is there yet. Raises LabError, with what its boot said last, when the node has ended."""
    if _is_gone(int((folder / "pid").read_text())):
        said = (folder.parent / "log" / f"{folder.name}-boot").read_text(errors="replace").splitlines()
        raise LabError(f"node {folder.name} ended while it booted: {' / '.join(said[-3:])}")
    return image_mark(folder).exists()


def first_process(folder: Path) -> int:
    """The node's PID 1 as the machine numbers it. Raises LabError when the node does not run."""
    try:
        parent = (folder / "pid").read_text()
        return int(Path(f"/proc/{parent}/task/{parent}/children").read_text().split()[0])
    except (OSError, IndexError):
        raise LabError(f"node {folder.name} does not run: see {folder.parent}/log/{folder.name}-*") from None


def inside(folder: Path) -> tuple[str, ...]:
    """The words that put a command into all namespaces of a node."""
    return ("nsenter", "-t", str(first_process(folder)), "-n", "-m", "-p", "-u", "-i", "--")


def end(folder: Path) -> None:
    """Ends a node at once, as a loss of power would."""
    with suppress(OSError, ValueError):
        pid = int((folder / "pid").read_text())
        os.kill(pid, signal.SIGKILL)
        wait_until_gone(pid)


def wait_until_gone(pid: int, seconds: float = 10.0) -> None:
    """Until the process is dead, reaped or not; its parent may be somebody who reaps slowly."""
    deadline = time.monotonic() + seconds
    while not _is_gone(pid):
        if time.monotonic() > deadline:
            raise LabError(f"process {pid} does not end")
        time.sleep(0.02)


def _is_gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True


def remove_cgroups(prefix: str, seconds: float = 5.0) -> None:
    """Takes away the cgroups of the nodes whose namespaces' names begin with `prefix`, the innermost first.

    Waits for processes that were killed and are still on their way out."""
    deadline = time.monotonic() + seconds
    for top in (found for each in hierarchies() for found in each.glob(f"{prefix}*")):
        while top.exists():
            for each in sorted((top, *(path for path in top.rglob("*") if path.is_dir())), reverse=True):
                with suppress(OSError):
                    each.rmdir()
            if time.monotonic() > deadline:
                raise LabError(f"{top} does not go away: a process is left in it")
            time.sleep(0.02)


def containerd_conf(path: str) -> str:
    """containerd's configuration. `restrict_oom_score_adj`: not every root may lower it, and runc dies of that."""
    return CONTAINERD.format(image=IMAGE, runc=shutil.which("runc", path=path))


def kubelet_command(node: Node, folder: Path, kubeconfig: Path, release: tuple[int, int], gates: str) -> str:
    """kubelet's command line: what its configuration cannot say."""
    runtime = f"--container-runtime=remote --container-runtime-endpoint={RUNTIME} "
    return KUBELET.format(
        conf=folder / "conf", kubeconfig=shlex.quote(str(kubeconfig)), node=node.name, address=node.addresses[0],
        more=f"{runtime if release < IN_CONFIGURATION else ''}{gates}",
    )


def kubelet_conf(node: Node, authority: Path, release: tuple[int, int]) -> dict[str, object]:
    """KubeletConfiguration. The disk is the machine's: how full it is must not evict a pod of the lab."""
    return {
        **({"containerRuntimeEndpoint": RUNTIME} if release >= IN_CONFIGURATION else {}),
        **({"failCgroupV1": False} if release >= CGROUP_V1_IS_OLD else {}),
        "apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration",
        "authentication": {
            "anonymous": {"enabled": False}, "webhook": {"enabled": True}, "x509": {"clientCAFile": str(authority)},
        },
        "authorization": {"mode": "Webhook"},
        "cgroupDriver": "cgroupfs", "cgroupRoot": f"/{node.netns}", "failSwapOn": False,
        "clusterDomain": "cluster.local", "clusterDNS": ["10.96.0.10"],
        "evictionHard": {
            "memory.available": "50Mi", "nodefs.available": "0%", "nodefs.inodesFree": "0%", "imagefs.available": "0%",
        },
        "imageGCHighThresholdPercent": 100, "imageGCLowThresholdPercent": 99,
        "nodeStatusUpdateFrequency": "5s", "syncFrequency": "10s",
    }


def proxy_conf(node: Node, kubeconfig: Path, cluster_cidr: str, *, gated: bool) -> dict[str, object]:
    """KubeProxyConfiguration. Conntrack's sizes are the machine's and left alone. `gated`: as `kube.Kube.gates`."""
    return {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1", "kind": "KubeProxyConfiguration", "mode": "iptables",
        "clusterCIDR": cluster_cidr, "hostnameOverride": node.name,
        **({"featureGates": {"IPv6DualStack": True}} if gated else {}),
        "clientConnection": {"kubeconfig": str(kubeconfig)},
        "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
    }
