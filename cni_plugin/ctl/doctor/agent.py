"""The agent: that it is there, ready, and of the release that this tool is of."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import msgspec

from cni_plugin.client import VERSION
from cni_plugin.ctl.configs import ConfigFile
from cni_plugin.ctl.doctor.contract import ERROR, HINT, SURROUNDINGS, WARNING, Finding
from cni_plugin.ctl.eyes import Eyes
from cni_plugin.store.records import DEFAULT_RUN_DIR

LAYER = SURROUNDINGS


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """The agent's own word (empty: away), this tool's `version`, and who wants an agent."""

    agent: dict[str, object] = {}
    version: str = ""
    run_dir: str = DEFAULT_RUN_DIR
    configs: tuple[ConfigFile, ...] = ()
    unknown: Mapping[str, str] = {}


def gather(eyes: Eyes) -> Facts:
    """What it says on its socket."""
    return Facts(
        agent=eyes.agent, version=VERSION, run_dir=eyes.records.run_dir, configs=eyes.configs, unknown=eyes.unknown()
    )


def agent_away(facts: Facts) -> Iterator[Finding]:
    """Nobody answers on the agent's socket."""
    if facts.agent or "agent" in facts.unknown:
        return
    required = [each.path for each in facts.configs if each.ours and each.agent == "required"]
    wanted = any(each.ours and each.agent != "none" for each in facts.configs)
    yield Finding(
        "agent-away", ERROR if required else HINT, f"{facts.run_dir}/agent.sock", "nobody answers",
        f'{required[0]} says "agent": "required": no pod can be started until the agent is back' if required
        else "pods start and stop all the same, only slower; what somebody breaks is not put right by itself"
        + ("" if wanted else ", and no configuration asks for an agent"),
        "systemctl enable --now tulled.socket tulled; journalctl -u tulled",
    )


def agent_version(facts: Facts) -> Iterator[Finding]:
    """The agent is of another release than this tool, and so than the plugin beside it."""
    version = facts.agent.get("version")
    if version and version != facts.version:
        yield Finding(
            "agent-version", WARNING, "version of the agent", f"{version}, the tool is {facts.version}",
            "an upgrade was not finished: pods are wired by the old release until the agent is started again",
            "systemctl restart tulled",
        )


def agent_not_ready(facts: Facts) -> Iterator[Finding]:
    """The agent is there and says that it cannot serve."""
    if facts.agent and facts.agent.get("ready") is False:
        yield Finding(
            "agent-not-ready", WARNING, "ready of the agent", str(facts.agent.get("problem") or "false"),
            "the agent has not finished starting, or cannot make the node as it should be",
            "journalctl -u tulled, and tullectl diff",
        )


FINDINGS = {
    agent_away: ("agent-away",),
    agent_version: ("agent-version",),
    agent_not_ready: ("agent-not-ready",),
}
