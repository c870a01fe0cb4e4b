"""What an operator may set of the agent: /etc/tulle/agent.json, every key optional.

    {"metrics": "127.0.0.1:9472", "interval": 60, "grace": 300, "log": "info",
     "source": {"type": "kubernetes"}, "address": {"interface": ["eth1"]}}
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

import msgspec

from cni_plugin import decoding
from cni_plugin.conf.reading import refuse_strangers
from cni_plugin.errors import INVALID_CONFIG, CniError
from cni_plugin.kernel.host import files
from cni_plugin.keys import complaint

DEFAULT_PATH = "/etc/tulle/agent.json"


class AddressSettings(msgspec.Struct, frozen=True, rename="camel"):
    """Which of its addresses this node tells its peers; the first setting that yields one holds.

    `interface`: names, in order of preference; `pattern`: a regular expression that a name matches whole; `can_reach`:
    an address or a host's IP that the interface leads to. `public` and `public_ipv6` are told to peers instead of the
    node's own, which a NAT in between translates.
    """

    interface: tuple[str, ...] = ()
    pattern: str = ""
    can_reach: str = ""
    public: str = ""
    public_ipv6: str = msgspec.field(default="", name="publicIPv6")


class CniSettings(msgspec.Struct, frozen=True, rename="camel"):
    """The CNI configuration that the agent writes once the node is ready: `path` "" for none.

    `template` is the file that it is made of, where the source does not keep one.
    """

    path: str = ""
    template: str = "/etc/tulle/cni-conf.json"


class Settings(msgspec.Struct, frozen=True):
    """`metrics`: an address of loopback, "" for none; `interval` and `grace` in seconds.

    `interval` is the time between two looks at everything; an attachment whose sandbox is gone is collected `grace`
    after that was first seen. `node`: how the source calls this node, by default $NODE_NAME or the host's name.
    `mesh`: whether other nodes' `tullectl` may ask how long this node's peers take to answer (UDP 9473, overlay only).
    `source`: where the cluster is learned from, `type` and that source's own keys; {} when networks name their nodes
    themselves. `network`: the name of the network that the source is about, where no CNI configuration says it.
    """

    metrics: str = ""
    interval: Annotated[float, msgspec.Meta(ge=1)] = 60.0
    grace: Annotated[float, msgspec.Meta(ge=0)] = 300.0
    log: Literal["error", "warn", "info", "debug"] = "info"
    node: str = ""
    network: str = "tulle"
    source: Mapping[str, object] = {}
    address: AddressSettings = AddressSettings()
    cni: CniSettings = CniSettings()
    mesh: bool = False


def load(path: str) -> Settings:
    """The settings in a file; the defaults when there is none. Raises CniError 7, OSError."""
    try:
        data = files.follow(path)
    except FileNotFoundError:
        return Settings()
    try:
        raw = decoding.decode(data)
        found = msgspec.convert(raw, Settings)
        refuse_strangers(raw, found, exact=True)
    except msgspec.ValidationError as error:
        raise CniError(INVALID_CONFIG, f"{path}: {complaint(error, raw, '', Settings)}") from error
    except msgspec.DecodeError as error:
        raise CniError(INVALID_CONFIG, f"invalid {path}: {error}") from error
    except CniError as error:
        known = ", ".join(Settings.__struct_fields__)
        raise CniError(error.code, f"{path}: {error.msg}; its keys are {known}") from error
    return found
