"""A machine whose first process is this machine's own systemd: namespaces, a cgroup, and an overlay over all files.

It boots in a second and needs no virtual machine. What runs there has its own processes, network, mounts and /run; what
is written goes to memory. Of /proc/sys only the network's part can be written, and /sys not at all, as in any
container: systemd would change both for the whole machine.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

from tests.pace import PATIENCE, until

SYSTEMD = "/lib/systemd/systemd"
MASKED = ("systemd-modules-load", "systemd-sysctl", "systemd-remount-fs", "systemd-udevd", "systemd-binfmt")
"""Units that would do something to the whole machine."""

BOOT = r"""
set -e
world=$1
mount --make-rprivate /
mount -t tmpfs tmpfs "$world"
mkdir "$world"/up "$world"/work "$world"/root "$world"/proc
mount -t overlay overlay -o "lowerdir=/,upperdir=$world/up,workdir=$world/work" "$world"/root
mount -t proc proc "$world"/proc
cd "$world"/root
mount -t proc proc proc
mount --bind proc/sys proc/sys
mount -o remount,bind,ro proc/sys
mount --bind "$world"/proc/sys/net proc/sys/net
mount -t sysfs sysfs sys -o ro
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t tmpfs tmpfs dev
for each in null zero full random urandom tty; do touch dev/$each; mount --bind /dev/$each dev/$each; done
mkdir dev/pts dev/shm
ln -s /proc/self/fd dev/fd
mount -t devpts devpts dev/pts -o newinstance,ptmxmode=0666
ln -s pts/ptmx dev/ptmx
mount -t tmpfs tmpfs run
mkdir -p .old var/lib/cni opt/cni/bin
rm -rf etc/systemd/system/*.wants opt/tulle etc/tulle var/lib/cni/networks
for each in MASKED; do ln -sf /dev/null etc/systemd/system/$each.service; done
pivot_root . .old
umount -l /.old
rmdir /.old
mount --make-rshared /
exec env -i container=tulle PATH="$PATH" SYSTEMD --show-status=0 --unit=basic.target
""".replace("MASKED", " ".join(MASKED)).replace("SYSTEMD", SYSTEMD)


def lacks() -> str:
    """Why no such machine can be had here, "" when it can."""
    if os.geteuid() != 0:
        return "needs root"
    if not Path(SYSTEMD).exists() or shutil.which("systemctl") is None:
        return "there is no systemd here"
    if "overlay" not in Path("/proc/filesystems").read_text():
        return "this kernel has no overlayfs"
    return "" if _cgroup_root() != Path() else "there is no cgroup2 hierarchy to write to"


class Machine:
    """Booted by `Machine(folder)`; `close` it. `sh` runs a script in it and gives back stdout."""

    def __init__(self, folder: Path) -> None:
        self._cgroup = _cgroup_root() / f"tulle-systemd-{os.getpid()}"
        self._cgroup.mkdir()
        world = folder / "world"
        world.mkdir()
        enter = ["unshare", "-C", "--kill-child", "-mpniu", "-f", "bash", "-c", BOOT, "boot", str(world)]
        with (folder / "console").open("wb") as console:
            self._process = subprocess.Popen(
                ["sh", "-c", 'echo $$ >"$0"/cgroup.procs; exec "$@"', str(self._cgroup), *enter],
                stdin=subprocess.DEVNULL, stdout=console, stderr=console, start_new_session=True,
            )
        try:
            self._init = self._find_init()
            until(lambda: "running" in self.sh("systemctl is-system-running || true"), "the machine is up")
        except BaseException as error:
            self.close()
            error.add_note((folder / "console").read_text(errors="replace")[-3000:])
            raise

    def argv(self, script: str) -> list[str]:
        """The command that runs a script in the machine."""
        return ["nsenter", "-a", "-t", str(self._init), "--", "bash", "-ec", script]

    def sh(self, script: str, *, check: bool = True) -> str:
        """Run a shell script; a failure is an AssertionError."""
        done = subprocess.run(self.argv(script), capture_output=True, text=True, timeout=60, check=False, cwd="/")
        assert not check or done.returncode == 0, f"{script}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def put(self, folder: Path, names: Sequence[str], target: str) -> None:
        """Copy these of a folder: as a stream, for they may lie on a file system that the machine does not see."""
        pack = subprocess.Popen(["tar", "-C", str(folder), "-c", *names], stdout=subprocess.PIPE)
        with pack:
            unpack = self.argv(f"mkdir -p {target}; tar -C {target} --no-same-owner -x")
            subprocess.run(unpack, stdin=pack.stdout, check=True, cwd="/")
        assert pack.returncode == 0, f"{folder}: {names}"

    def start(self, script: str) -> subprocess.Popen[str]:
        """Run a shell script meanwhile."""
        return subprocess.Popen(self.argv(script), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd="/")

    def show(self, unit: str, *names: str) -> list[str]:
        """Properties of a unit."""
        return [self.sh(f"systemctl show -P {name} {unit}").strip() for name in names]

    def pid(self) -> int:
        """The agent's main process, as the machine numbers it; 0 without one."""
        return int(self.show("tulled.service", "MainPID")[0])

    def log(self) -> str:
        """What the agent has logged."""
        return self.sh("journalctl --sync; journalctl --no-pager -o cat -u tulled.service")

    def close(self) -> None:
        """End it with all that runs in it, and take its cgroups away."""
        self._process.send_signal(signal.SIGKILL)
        self._process.wait(PATIENCE)
        until(self._gone, "its cgroups are gone")

    def _gone(self) -> bool:
        for each in sorted(self._cgroup.rglob("**"), reverse=True):
            with contextlib.suppress(OSError):  # its last process is on its way out
                each.rmdir()
        return not self._cgroup.exists()

    def _find_init(self) -> int:
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children")
        found: list[int] = []

        def booted() -> bool:
            found[:] = [int(each) for each in children.read_text().split()]
            return bool(found) and Path(f"/proc/{found[0]}/comm").read_text() == "systemd\n"

        until(booted, "systemd is started")
        return found[0]


def _cgroup_root() -> Path:
    for each in ("/sys/fs/cgroup", "/sys/fs/cgroup/unified"):
        if (Path(each) / "cgroup.procs").exists() and (Path(each) / "cgroup.controllers").exists():
            return Path(each)
    return Path()
