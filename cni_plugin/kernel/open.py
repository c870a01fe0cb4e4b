"""Which kernel stands behind the door: the real one. Only entry points ask here; all else is handed it."""

from __future__ import annotations

from contextlib import AbstractContextManager

from cni_plugin.kernel.door import Kernel


def open_kernel() -> AbstractContextManager[Kernel]:
    """The kernel of the namespace that this process is in. Imported late: a request refused early pays nothing."""
    from cni_plugin.kernel.linux import LinuxKernel

    return LinuxKernel()
