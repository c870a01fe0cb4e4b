"""What may leave the node in a bug report: everything but secrets, which are known by the names of their keys.

A value that stood under such a name once is taken out wherever else it turns up, an error message for instance.
Promise: of environments only CNI_* and TRACEPARENT are kept, and of CNI_ARGS only what names the pod.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

LEFT_OUT = "(left out)"
_SECRET = re.compile(
    r"token|passw|secret|credential|cert|kubeconfig|private|bearer|authorization|(^|[-_.a-z])key([-_.]?data)?$",
    re.IGNORECASE,
)
_ARGS = ("K8S_POD_NAME", "K8S_POD_NAMESPACE", "K8S_POD_UID", "K8S_POD_INFRA_CONTAINER_ID", "IgnoreUnknown")
_SHORTEST = 8
"""A shorter value is not looked for elsewhere: it would be found in everything."""


class Censor:
    """Takes secrets out, and remembers them."""

    def __init__(self) -> None:
        self._seen: set[str] = set()

    def json(self, value: object) -> object:
        """The same JSON with the values of secret keys replaced."""
        if isinstance(value, Mapping):
            return {key: self._one(str(key), each) for key, each in value.items()}
        if isinstance(value, list | tuple):
            return [self.json(each) for each in value]
        return value

    def environ(self, environ: Mapping[str, str]) -> dict[str, str]:
        """The variables that belong to a CNI request."""
        kept = {key: each for key, each in environ.items() if key.startswith("CNI_") or key == "TRACEPARENT"}
        if "CNI_ARGS" in kept:
            kept["CNI_ARGS"] = self._args(kept["CNI_ARGS"])
        return kept

    def text(self, text: str) -> str:
        """The same text without the secrets that were met so far."""
        for each in sorted(self._seen, key=len, reverse=True):
            text = text.replace(each, LEFT_OUT)
        return text

    def _one(self, key: str, value: object) -> object:
        if not _SECRET.search(key) or value in (None, "", True, False):
            return self.json(value)
        self._remember(value)
        return LEFT_OUT

    def _args(self, text: str) -> str:
        pairs = (each.partition("=") for each in text.split(";") if each)
        told = []
        for key, _, value in pairs:
            if _SECRET.search(key):
                self._remember(value)
            told.append(f"{key}={value if key in _ARGS else LEFT_OUT}")
        return ";".join(told)

    def _remember(self, value: object) -> None:
        if isinstance(value, str) and len(value) >= _SHORTEST:
            self._seen.add(value)
        elif isinstance(value, Mapping):
            for each in value.values():
                self._remember(each)
        elif isinstance(value, list | tuple):
            for each in value:
                self._remember(each)
