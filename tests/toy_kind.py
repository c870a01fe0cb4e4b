"""A kind of kernel object that nobody needs, added as anybody would add one: a class, and a file that writes and reads.

Both are the manual's examples, and lie in a folder of the test's own.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path

from cni_plugin.kernel.kinds import kind_of
from cni_plugin.model.links import Link
from tests import toys


@contextmanager
def added(folder: Path) -> Iterator[type[Link]]:
    """The class, while there is such a kind."""
    with toys.added(folder, "model", "toy"), toys.added(folder, "kernel.rtnl.objects", "ifb"):
        try:
            kind: type[Link] = import_module("cni_plugin.model.toy").Ifb
            yield kind
        finally:
            kind_of.cache_clear()
