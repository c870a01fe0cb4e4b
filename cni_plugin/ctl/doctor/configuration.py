"""Configurations: whether a runtime finds one of ours, whether it can be used, and whether it says what was meant."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import msgspec

from cni_plugin.ctl.configs import ConfigFile
from cni_plugin.ctl.doctor.contract import CONFIGURATION, ERROR, WARNING, Finding
from cni_plugin.ctl.eyes import Eyes

LAYER = CONFIGURATION


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """The files in the runtime's folder, as runtimes take them: in order."""

    conf_dir: str = "/etc/cni/net.d"
    configs: tuple[ConfigFile, ...] = ()
    unknown: Mapping[str, str] = {}


def gather(eyes: Eyes) -> Facts:
    """What there is to read."""
    return Facts(conf_dir=eyes.places.conf_dir, configs=eyes.configs, unknown=eyes.unknown())


def no_configuration(facts: Facts) -> Iterator[Finding]:
    """A runtime finds nothing to start pods with, or nothing of ours."""
    if "configuration" in facts.unknown or any(each.ours for each in facts.configs):
        return
    names = ", ".join(each.path.rpartition("/")[2] for each in facts.configs) or "nothing"
    yield Finding(
        "no-configuration", ERROR, facts.conf_dir, names,
        "no configuration of type tulle is there: "
        + ("pods are wired by another plugin" if facts.configs else "the node stays NotReady and no pod starts"),
        f"scripts/install, or put a conflist such as conf/10-tulle.conflist into {facts.conf_dir}",
    )


def shadowed_configuration(facts: Facts) -> Iterator[Finding]:
    """Runtimes take the first file in the folder."""
    if not facts.configs or facts.configs[0].ours or not any(each.ours for each in facts.configs):
        return
    first = facts.configs[0]
    ours = next(each for each in facts.configs if each.ours)
    yield Finding(
        "shadowed-configuration", ERROR, first.path, ", ".join(first.plugins) or first.problem or "no plugin",
        f"it sorts before {ours.path}, so runtimes use it and not Tulle: new pods are on another network than old ones",
        f"mv {first.path} {first.path}.disabled, or rename ours so that it sorts first",
    )


def bad_configuration(facts: Facts) -> Iterator[Finding]:
    """A file that no runtime can use."""
    for each in facts.configs:
        if each.problem:
            yield Finding(
                "bad-configuration", ERROR if each.ours or each is facts.configs[0] else WARNING, each.path,
                each.problem, "a runtime that picks this file cannot start pods",
                f"correct it: tullectl plan {each.path}",
            )


def unknown_keys(facts: Facts) -> Iterator[Finding]:
    """Keys that nobody reads and that look like one that somebody does."""
    for config in facts.configs:
        for each in config.doubts:
            key, _, says = each.partition(": ")
            yield Finding(
                "unknown-key", WARNING, f"{key} in {config.path}", says,
                "what was probably meant by it is not done, and nothing else will ever say so",
                "write the key as it is called, or remove it",
            )


FINDINGS = {
    no_configuration: ("no-configuration",),
    shadowed_configuration: ("shadowed-configuration",),
    bad_configuration: ("bad-configuration",),
    unknown_keys: ("unknown-key",),
}
