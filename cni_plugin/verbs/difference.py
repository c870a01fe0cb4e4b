"""What CHECK says of a difference: that there is one, and in the words of `ip`, `bridge` and `nft` how to mend it."""

from __future__ import annotations

from collections.abc import Sequence

from cni_plugin.describe import script
from cni_plugin.diff import Op
from cni_plugin.errors import CHECK_FAILED, CniError


def refuse(what: str, ops: Sequence[Op]) -> None:
    """Raises CniError 101 where it takes operations to make `what` as it was made."""
    if ops:
        raise CniError(CHECK_FAILED, f"{what} is not as ADD made it; the details would put it right", script(ops))
