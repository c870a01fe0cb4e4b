"""The one error that leaves the plugin, and the codes of the CNI specification.

Everything below raises errors of its own domain; `verbs.run` turns those into a `CniError` in one place. A
message says what was wrong, where, and what to do about it.
"""

from __future__ import annotations

INCOMPATIBLE_VERSION = 1
UNSUPPORTED_FIELD = 2
UNKNOWN_CONTAINER = 3
INVALID_ENVIRONMENT = 4
IO_FAILURE = 5
DECODING_FAILURE = 6
INVALID_CONFIG = 7
INVALID_NETNS = 8
TRY_AGAIN_LATER = 11
NOT_AVAILABLE = 50
LIMITED_CONNECTIVITY = 51

KERNEL_REFUSED = 100
"""Ours: the kernel refused an operation; `details` is the operation in the words of `ip`, `bridge` or `nft`."""
CHECK_FAILED = 101
"""Ours: the network of a pod is not as ADD made it; `details` says what would put it right."""
ADDRESS_UNAVAILABLE = 102
"""Ours: a requested address is taken or outside the ranges."""
GC_INCOMPLETE = 103
"""Ours: some attachments could not be collected; `details` lists each with its reason."""
DELEGATE_FAILED = 104
"""Ours: a delegated plugin failed without saying why."""
BUG = 999
"""What the Go plugins use for an error without a code; here, an exception that nobody foresaw."""


class CniError(Exception):
    """An error as the specification words it: code, a sentence, and details for who wants to look closer."""

    def __init__(self, code: int, msg: str, details: str = "") -> None:
        super().__init__(msg)
        self.code = code
        self.msg = msg
        self.details = details


class NoAnswer(CniError):
    """Another plugin, `who`, was waited for in vain: to ask it again in the same request would take as long again."""

    def __init__(self, who: str, code: int, msg: str) -> None:
        super().__init__(code, msg)
        self.who = who
