"""What a kernel takes by file instead of netlink: sysctls.

Promise: a value that stands already is not written again (in a container /proc/sys may be read-only), and what cannot
be set is an error only where pods get no packets without it; the error says where it can be.

A container that is not privileged cannot write to its /proc/sys. The node's may be mounted elsewhere for it, and
$TULLE_PROC_SYS says where; it shows the namespace of whoever looks, as /proc/sys does.
"""

from __future__ import annotations

import errno
import os

from cni_plugin.model.host import Sysctl

_ROOT = "/proc/sys"
_SECRET = "stable_secret"
"""What cannot be read before it is first set (addrconf_sysctl_stable_secret in net/ipv6/addrconf.c)."""
_OUT_OF_REACH = (errno.ENOENT, errno.EROFS, errno.EACCES, errno.EPERM)


def write_sysctl(each: Sysctl, have: str | None) -> None:
    """Set it in the network namespace that the calling thread is in, where it is `have`, None for no such key.

    Raises OSError, with where to set it instead.
    """
    if have == each.value:
        return
    try:
        _write(_path(each), each.value)
    except OSError as error:
        if each.vital:
            raise OSError(error.errno, f"{error.strerror}; {_remedy(each, error.errno)}") from error
        if error.errno not in _OUT_OF_REACH or (error.errno == errno.ENOENT and not _is_ipv6(each)):
            raise


def out_of_reach(each: Sysctl) -> str:
    """Why it cannot be set in the network namespace that the calling thread is in, and where it can be; "" if it can.

    access(2) tells of a file system that is read-only, also to root.
    """
    if os.access(_path(each), os.W_OK):
        return ""
    code = errno.EROFS if os.path.exists(_path(each)) else errno.ENOENT
    return f"{os.strerror(code)}; {_remedy(each, code)}"


def read_sysctl(each: Sysctl) -> str | None:
    """Its value in the network namespace that the calling thread is in, None when there is no such key."""
    try:
        return read_line(_path(each))
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno == errno.EINVAL or (error.errno == errno.EIO and each.name.endswith(_SECRET)):
            return ""
        raise


def read_line(path: str) -> str:
    """The words of a short file that the kernel writes as it is read, one space apart. Raises OSError.

    By three system calls: a file object makes eight, and a pod has many sysctls.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return " ".join(os.read(descriptor, 4096).decode().split())
    finally:
        os.close(descriptor)


def _path(each: Sysctl) -> str:
    """Names are separated by slashes, as sysctl(8) takes them too: a link's name may hold dots."""
    name = each.name if "/" in each.name else each.name.replace(".", "/")
    return f"{os.environ.get('TULLE_PROC_SYS', _ROOT)}/{name}"


def _is_ipv6(each: Sysctl) -> bool:
    return each.name.startswith(("net/ipv6/", "net.ipv6."))


def _write(path: str, value: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, value.encode())
    finally:
        os.close(descriptor)


def _remedy(each: Sysctl, code: int | None) -> str:
    if code == errno.ENOENT and _is_ipv6(each):
        return (
            "there is no IPv6 here (ipv6.disable=1 on the kernel's command line, or a hidden /proc/sys/net/ipv6): give "
            "the network IPv4 ranges only, or boot the kernel with IPv6"
        )
    where = "in the pod's sandbox" if each.ns else "on the node, and in /etc/sysctl.d to keep it"
    return (
        f"set it where /proc/sys can be written (sysctl -w {each.name}={each.value} {where}), or let Tulle write "
        "there: mount /proc/sys read-write, or say in $TULLE_PROC_SYS where it is"
    )
