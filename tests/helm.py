"""Helm itself, from the package helm-binary: the chart in conf/kubernetes/chart as `helm` reads it."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import pytest
import yaml  # type: ignore[import-untyped]

CHART = Path(__file__).parents[1] / "conf" / "kubernetes" / "chart"
_HELM = Path(sys.executable).with_name("helm")


class HelmError(Exception):
    """What Helm complained of."""


def helm(*words: str, stdin: str = "") -> str:
    """What `helm` prints, with caches and settings of its own. Raises HelmError; skips where there is no Helm."""
    if not _HELM.exists():
        pytest.skip("there is no package of Helm for this processor")
    with tempfile.TemporaryDirectory() as home:
        done = subprocess.run(
            [_HELM, *words], input=stdin, capture_output=True, text=True, check=False, timeout=60,
            env={"HOME": home, "PATH": "/usr/bin:/bin"},
        )
    if done.returncode != 0:
        raise HelmError(done.stderr.strip())
    return done.stdout


def render(values: Mapping[str, object] | None = None, *kinds: str) -> list[dict[str, object]]:
    """The objects of the chart with its default values, and these over them. Raises HelmError.

    `kinds` are those that the API server knows beyond what each does, as group/version/Kind.
    """
    known = [word for each in kinds for word in ("--api-versions", each)]
    text = helm("template", "tulle", str(CHART), "--values", "-", *known, stdin=json.dumps(values or {}))
    return [each for each in yaml.safe_load_all(text) if each]
