"""Other programs that take care of links and routes, of ours too: systemd's udevd and networkd, and NetworkManager.

Only their files are read, `root` before /etc, /run and /usr. What is there and cannot be read raises OSError; what is
not there is an empty answer.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from fnmatch import fnmatchcase

import msgspec

from cni_plugin.ctl.doctor.contract import HINT, LINKS, UNKNOWN, WARNING, Finding
from cni_plugin.ctl.eyes import Eyes
from cni_plugin.kernel.host import files
from cni_plugin.kernel.see.look import Link

LAYER = LINKS
_SET = 3
_SYSTEMD = ("/etc/systemd", "/run/systemd", "/usr/local/lib/systemd", "/usr/lib/systemd", "/lib/systemd")
"""The first that has a file of a name wins (systemd.link(5), networkd.conf(5))."""
_ACTIVE = "/run/systemd/units/invocation:systemd-networkd.service"
"""systemd keeps this link while the unit runs (src/core/unit.c, unit_export_invocation_id)."""


class File(msgspec.Struct, frozen=True):
    """A configuration file of another program, in the order in which that reads them."""

    path: str
    text: str


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What they are told, and the links. `networkd`: None where it does not run; `managed`: by NetworkManager."""

    links: tuple[Link, ...] = ()
    own: tuple[str, ...] = ()
    link_files: tuple[File, ...] = ()
    networkd: tuple[File, ...] | None = None
    managed: tuple[str, ...] = ()


def gather(eyes: Eyes) -> Facts:
    """Their files, and what became of our links."""
    root = eyes.places.root
    return Facts(
        links=eyes.links,
        own=eyes.own,
        link_files=eyes.notes.many("systemd's .link files", lambda: link_files(root)),
        networkd=eyes.notes.one("systemd-networkd", lambda: networkd(root)),
        managed=eyes.notes.many("NetworkManager", lambda: managed(root, eyes.links)),
    )


def mac_not_set(facts: Facts) -> Iterator[Finding]:
    """A MAC that nobody set is one that udev sets."""
    unseen = [each.name for each in facts.links if each.name in facts.own and each.assigned == -1]
    if unseen:
        yield Finding(
            "not-known", UNKNOWN, f"addr_assign_type of {unseen[0]}",
            f"/sys shows another network namespace ({len(unseen)} links)",
            "whether these links' MACs were set, so that systemd-udevd leaves them, could not be found out",
            "run tullectl where /sys belongs to the node: ip netns exec mounts it anew, nsenter --net does not",
        )
    for each in facts.links:
        if each.name in facts.own and each.assigned not in (-1, _SET):
            yield Finding(
                "mac-not-set", WARNING, f"addr_assign_type of {each.name}", str(each.assigned),
                "systemd-udevd may give this link another MAC (MACAddressPolicy=persistent), and whoever knows the old "
                "one sends into the void",
                f"ip link set {each.name} address {each.mac}",
            )


def mac_policy(facts: Facts) -> Iterator[Finding]:
    """systemd's default gives new links a MAC of its own; ours are set at creation, so it leaves them."""
    for dev in ("tulle0", "tulle.1", "tl0123456789a"):
        rule = next((each for each in facts.link_files if _matches(each, dev)), None)
        if rule is not None and _value(rule, "MACAddressPolicy") == "persistent":
            yield Finding(
                "mac-policy", HINT, rule.path, "MACAddressPolicy=persistent",
                "systemd-udevd changes the MAC of new virtual links; it leaves ours, whose MAC is set, but not the "
                "bridges and links that other programs make",
                "a file /etc/systemd/network/10-tulle.link with [Match] OriginalName=tulle* tl* and "
                "[Link] MACAddressPolicy=none",
            )
            return


def foreign_routes(facts: Facts) -> Iterator[Finding]:
    """systemd-networkd removes routes that it did not make when an interface bounces or it is started again."""
    if facts.networkd is None:
        return
    said = [value for each in facts.networkd if (value := _value(each, "ManageForeignRoutes"))]
    value = said[-1] if said else "yes, the default"
    if value.lower() not in ("no", "false", "off", "0", "n", "f"):
        yield Finding(
            "manage-foreign-routes", WARNING, "ManageForeignRoutes of systemd-networkd", value,
            "systemd-networkd removes the routes to other nodes' pods when an interface bounces or it is restarted: "
            "pods of other nodes are away until somebody puts the routes back",
            r"printf '[Network]\nManageForeignRoutes=no\n' >/etc/systemd/networkd.conf.d/tulle.conf; "
            "systemctl restart systemd-networkd",
        )


def network_manager(facts: Facts) -> Iterator[Finding]:
    """NetworkManager takes care of a link of ours."""
    theirs = [each for each in facts.managed if each in facts.own]
    if theirs:
        yield Finding(
            "network-manager", WARNING, "managed by NetworkManager", ", ".join(theirs[:5]),
            "NetworkManager may take addresses, routes and the link itself down when it thinks it is not needed",
            r"printf '[keyfile]\nunmanaged-devices=interface-name:tulle*;interface-name:tl*\n' "
            ">/etc/NetworkManager/conf.d/tulle.conf; systemctl reload NetworkManager",
        )


def link_files(root: str) -> tuple[File, ...]:
    """systemd's .link files in the order in which udev tries them: by name."""
    return _in_order(root, "network", ".link")


def networkd(root: str) -> tuple[File, ...] | None:
    """systemd-networkd's configuration, later files going before; None when it does not run."""
    if not os.path.lexists(root + _ACTIVE):
        return None
    mains = (f"{root}{folder}/networkd.conf" for folder in _SYSTEMD)
    main = next((path for path in mains if os.path.exists(path)), "")
    return (*([_file(main)] if main else []), *_in_order(root, "networkd.conf.d", ".conf"))


def managed(root: str, links: Collection[Link]) -> tuple[str, ...]:
    """The links that NetworkManager takes care of, by the state that it keeps of each (`managed=true`)."""
    folder = f"{root}/run/NetworkManager/devices"
    indexes = {str(each.index): each.name for each in links}
    told = {name: files.follow(f"{folder}/{name}").decode(errors="replace") for name in files.names(folder)}
    return tuple(indexes[name] for name, text in told.items() if name in indexes and "managed=true" in text.split())


def _matches(file: File, dev: str) -> bool:
    """Whether a .link file is for a link of this name: by OriginalName alone, other conditions name hardware."""
    section, conditions = "", {}
    for line in file.text.splitlines():
        text = line.strip()
        if text.startswith("["):
            section = text
        elif section == "[Match]" and "=" in text and not text.startswith(("#", ";")):
            key, _, value = text.partition("=")
            conditions[key.strip()] = value.split()
    return set(conditions) == {"OriginalName"} and any(fnmatchcase(dev, each) for each in conditions["OriginalName"])


def _value(file: File, key: str) -> str:
    lines = (line.strip() for line in file.text.splitlines())
    found = [line.partition("=")[2].strip() for line in lines if line.partition("=")[0].strip() == key]
    return found[-1] if found else ""


def _in_order(root: str, folder: str, ending: str) -> tuple[File, ...]:
    paths: dict[str, str] = {}
    for each in reversed(_SYSTEMD):
        place = f"{root}{each}/{folder}"
        paths.update({name: f"{place}/{name}" for name in files.names(place) if name.endswith(ending)})
    return tuple(_file(paths[name]) for name in sorted(paths))


def _file(path: str) -> File:
    return File(path, files.follow(path).decode(errors="replace"))


FINDINGS = {
    mac_not_set: ("mac-not-set", "not-known"),
    mac_policy: ("mac-policy",),
    foreign_routes: ("manage-foreign-routes",),
    network_manager: ("network-manager",),
}
