"""As much of Helm as the chart in conf/kubernetes/chart uses: a small part of Go's templates, and nothing besides.

    {{ .Values.a.b }}   {{ .Values.a | toPrettyJson | nindent 4 }}   {{ toYaml .Values.a | nindent 8 }}
    {{ if .Values.a }} ... {{ end }}          `{{-` and `-}}` take the white space beside them along

Anything else is an error, so a chart that passes here uses nothing of which this has its own opinion.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml  # type: ignore[import-untyped]

_ACTION = re.compile(r"(\s*\{\{-|\{\{)\s*(.*?)\s*(-\}\}\s*|\}\})", re.DOTALL)
_PATH = re.compile(r"\.Values(\.[A-Za-z]+)+")


def render(chart: Path, values: Mapping[str, object] | None = None) -> list[dict[str, object]]:
    """The objects of a chart with its default values, and these over them. Raises ValueError for what is not known."""
    defaults = yaml.safe_load((chart / "values.yaml").read_text())
    merged = _merge(defaults, values or {})
    text = "\n---\n".join(_expand(each.read_text(), merged) for each in sorted((chart / "templates").glob("*.yaml")))
    return [each for each in yaml.safe_load_all(text) if each]


def _merge(below: Mapping[str, object], above: Mapping[str, object]) -> dict[str, object]:
    """Objects key by key, all else whole, as Helm lays a user's values over the chart's."""
    merged = dict(below)
    for key, value in above.items():
        under = merged.get(key)
        merged[key] = _merge(under, value) if isinstance(under, dict) and isinstance(value, dict) else value
    return merged


def _expand(text: str, values: Mapping[str, object]) -> str:
    written: list[str] = []
    shown = [True]
    position = 0
    for action in _ACTION.finditer(text):
        if all(shown):
            written.append(text[position : action.start()])
        position = action.end()
        word, _, rest = action[2].partition(" ")
        if word == "if":
            shown.append(bool(_value(rest, values)))
        elif word == "end" and len(shown) > 1:
            shown.pop()
        elif all(shown):
            written.append(_pipeline(action[2], values))
    if len(shown) > 1:
        raise ValueError("an {{ if }} without its {{ end }}")
    return "".join([*written, text[position:]])


def _pipeline(text: str, values: Mapping[str, object]) -> str:
    first, *steps = [each.split() for each in text.split("|")]
    if len(first) == 2:
        steps.insert(0, first[:1])
    value = _value(first[-1], values)
    for name, *arguments in steps:
        value = _call(name, arguments, value)
    if not isinstance(value, str | int) or isinstance(value, bool):
        raise ValueError(f"{text}: Go would print {value!r} in a way of its own")
    return str(value)


def _call(name: str, arguments: Sequence[str], value: object) -> object:
    match name, arguments:
        case "toPrettyJson", []:
            return json.dumps(value, indent=2, sort_keys=True)
        case "toYaml", []:
            return yaml.safe_dump(value).rstrip("\n")
        case "nindent", [width] if isinstance(value, str):
            return "".join(f"\n{' ' * int(width)}{line}" for line in value.split("\n"))
    raise ValueError(f"{name} {' '.join(arguments)}: not known here")


def _value(path: str, values: Mapping[str, object]) -> object:
    if not _PATH.fullmatch(path):
        raise ValueError(f"{path!r}: only paths below .Values are known here")
    value: object = values
    for key in path.split(".")[2:]:
        if not isinstance(value, dict) or key not in value:
            raise ValueError(f"{path}: values.yaml has no such key")
        value = value[key]
    return value
