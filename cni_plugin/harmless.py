"""What of a configuration may be shown to others: what is known to be harmless, and nothing else.

Configurations are others' too, so no list of secret keys is ever whole. A value is shown when its shape says what it is
(an address, a switch, a small number), or when its key is one that we know and its shape is what such a key has. All
else is left out, with what lies below it; and what was left out is looked for in texts, an error message for instance.

    Censor().json({"mtu": 1450, "dns": {"nameservers": ["10.0.0.10"]}, "pat": "x", "endpoints": ["http://u:p@h:1/"]})
    ->            {"mtu": 1450, "dns": {"nameservers": ["10.0.0.10"]}, "pat": "(left out)", "endpoints": ["http://h:1"]}

Promise: of environments only CNI_* and TRACEPARENT are kept, and of CNI_ARGS only what names the pod.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from ipaddress import ip_interface
from urllib.parse import quote, urlsplit

import msgspec

from cni_plugin import decoding

LEFT_OUT = "(left out)"


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_NAMES = _words(
    """type name cniversion cniversions network bridge master parent mode ifname interface interfaces container
    containerid node nodename ipam object dev ns peer device kind backend boot digest log loglevel verb domain search
    options agent protocol vrfname iptablesadminchainname externalsetmarkchain datastoretype pcibusid namespace
    configmap hostname uplinks capabilities clusternetwork defaultnetworks"""
)
_PATHS = _words(
    """path datadir sandbox netns resolvconf cafile certfile keyfile kubeconfig state template subnetfile rundir confdir
    bindir cnidir socketdir logfile daemonsocketpath kernelpath cluster source prefix"""
)
_URLS = _words("endpoint endpoints server url etcdendpoints")
_NUMBERS = _words(
    """mtu wiremtu vlan vlanid id minid maxid vid last vni port hostport containerport ingressrate ingressburst
    egressrate egressburst priority metric table scope advmss subnetlen ttl renewmargin interval grace since created at
    seconds code peers index flags stamp timeout qlen markmasqbit"""
)
_HOLDERS = _words(
    """plugins ipranges ranges routes dns runtimeconfig prevresult ips nodes address addresses cni delegate delegates
    portmappings bandwidth objects conf podcidrs policy kubernetes backenddata data settings networks inside subnets
    vlantrunk cni.dev/validattachments cni.dev/attachments"""
)
_KNOWN = _NAMES | _PATHS | _URLS | _NUMBERS | _HOLDERS
_NAME = re.compile(r"[A-Za-z0-9_][\w.@:-]{0,252}(/[\w.-]{1,252})?")
_HOST = re.compile(r"[A-Za-z0-9_][\w.-]{0,252}")
_PATH = re.compile(r"/[\w./@:+-]{0,4095}(:/[\w./@:+-]*)*")
_MAC = re.compile(r"([0-9A-Fa-f]{2}:){5}[0-9A-Fa-f]{2}")
_WITH_PORT = re.compile(r"\[(?P<six>[0-9A-Fa-f:.]+)\]:\d{1,5}|(?P<four>[0-9.]+):\d{1,5}")
_KEY = re.compile(r"[A-Za-z]+([-_./][A-Za-z]+)*")
"""A key that we do not know is shown when it is plain words: a misspelt one is what many a report is about."""
_LONGEST_KEY = 40
_SMALL = 100
_SECRET = re.compile(
    r"token|passw|secret|credential|private|bearer|authorization|psk|cookie|signature|api|(^|[^a-z])(key|pw|auth|pat)",
    re.I,
)
_ARGS = ("K8S_POD_NAME", "K8S_POD_NAMESPACE", "K8S_POD_UID", "K8S_POD_INFRA_CONTAINER_ID", "IgnoreUnknown")
_ENVIRON = (
    "CNI_COMMAND", "CNI_CONTAINERID", "CNI_IFNAME", "CNI_NETNS", "CNI_PATH", "CNI_NETNS_OVERRIDE", "TRACEPARENT",
)
_ERROR = ("msg", "details")
_SHORTEST, _SHORTEST_SECRET, _LONG = 6, 3, 8
"""Characters: what is shorter is not looked for in texts, but for what its key calls a secret; what is not long is
found only as a whole word."""
_IN_TEXT = (
    (re.compile(r"(://)[^\s\"'<>]*@"), rf"\1{LEFT_OUT}@"),
    (re.compile(r"(://[^\s\"'<>?]+)\?[^\s\"'<>]+"), rf"\1?{LEFT_OUT}"),
    (re.compile(r"\b(bearer|basic)\s+[\w.~+/=-]{6,}", re.I), rf"\1 {LEFT_OUT}"),
    (re.compile(r"\beyJ[\w-]+\.[\w-]+\.[\w-]*"), LEFT_OUT),
    (
        re.compile(r"((?:token|passw\w*|secret|credentials?|api[-_]?key)\s*[=:]\s*)(?!\(left)[^\s\"',;&]+", re.I),
        rf"\1{LEFT_OUT}",
    ),
    (re.compile(r"-----BEGIN [^-\"]+-----[^\"]*?(-----END [^-\"]+-----|(?=\")|$)"), LEFT_OUT),
)


class Censor:
    """Leaves out what is not known to be harmless, and remembers it."""

    def __init__(self) -> None:
        self._seen: set[str] = set()
        self._shown: set[str] = set(_KNOWN)

    def json(self, value: object) -> object:
        """The same JSON with what is not known to be harmless left out."""
        return self._value("", value, known=True)

    def document(self, text: str | bytes) -> str:
        """JSON as JSON; what is none is left out whole, for nobody could tell what in it is harmless."""
        try:
            return msgspec.json.encode(self.json(decoding.decode(text))).decode() if text.strip() else ""
        except msgspec.MsgspecError:
            self._learn(text.decode(errors="replace") if isinstance(text, bytes) else text)
            return ""

    def served(self, environ: Mapping[str, str], stdin: str, stdout: str, message: str) -> dict[str, object]:
        """What is remembered of a request that was served; an error's own words are kept without what was left out."""
        shown: dict[str, object] = {"environ": self.environ(environ), "stdin": self.document(stdin)}
        return {**shown, "stdout": self._answer(stdout), "message": self.text(message)}

    def environ(self, environ: Mapping[str, str]) -> dict[str, str]:
        """The variables that belong to a CNI request."""
        kept = {key: each for key, each in environ.items() if key in _ENVIRON}
        if "CNI_ARGS" in environ:
            kept["CNI_ARGS"] = ";".join(self._argument(each) for each in environ["CNI_ARGS"].split(";") if each)
        return {key: self.text(each) for key, each in kept.items()}

    def told(self, value: object) -> object:
        """What we say ourselves, in JSON: all of it, but for secrets within its texts."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, Mapping):
            return {self.text(str(key)): self.told(each) for key, each in value.items()}
        return [self.told(each) for each in value] if isinstance(value, list | tuple) else value

    def text(self, text: str) -> str:
        """The same text without what was left out so far, and without what looks like a secret in any text."""
        for pattern, instead in _IN_TEXT:
            text = pattern.sub(instead, text)
        for each in sorted(self._seen - self._shown, key=len, reverse=True):
            for form in {each, msgspec.json.encode(each).decode()[1:-1], quote(each, safe="")}:
                if form not in text:
                    continue
                bounded = rf"(?<!\w){re.escape(form)}(?!\w)" if len(form) < _LONG else re.escape(form)
                text = re.sub(bounded, LEFT_OUT, text)
        return text

    def _answer(self, stdout: str) -> str:
        try:
            shape = decoding.decode(stdout)
        except msgspec.MsgspecError:
            return self.document(stdout)
        if not isinstance(shape, dict) or "code" not in shape:
            return self.document(stdout)
        words = {key: self.text(each) for key in _ERROR if isinstance(each := shape.pop(key, None), str)}
        return msgspec.json.encode({**dict(self._pairs(shape, known=True)), **words}).decode()

    def _value(self, key: str, value: object, *, known: bool) -> object:
        if isinstance(value, Mapping):
            return dict(self._pairs(value, known=known))
        if isinstance(value, list | tuple):
            return [self._value(key, each, known=known) for each in value]
        shown = _harmless(key if known else "", value)
        if shown is None and value not in (None, LEFT_OUT):
            self._remember(key, str(value), is_text=isinstance(value, str))
            return LEFT_OUT
        if isinstance(shown, str) and shown == value:
            self._shown.add(shown)
        return value if value == LEFT_OUT else shown

    def _pairs(self, value: Mapping[object, object], *, known: bool) -> Iterator[tuple[str, object]]:
        for number, (name, each) in enumerate(value.items(), 1):
            key = str(name)
            ours = _folded(key) in _KNOWN
            if not (ours or (_KEY.fullmatch(key) and len(key) <= _LONGEST_KEY)):
                self._remember("", key, is_text=True)
                key = f"{LEFT_OUT} {number}"
            yield key, self._value(key, each, known=known and ours)

    def _argument(self, pair: str) -> str:
        key, _, value = pair.partition("=")
        if (key in _ARGS and _NAME.fullmatch(value)) or (key.isalpha() and _is_address(value)):
            return pair
        self._remember(key, value, is_text=True)
        return f"{key if _KEY.fullmatch(key) or key in _ARGS else LEFT_OUT}={LEFT_OUT}"

    def _remember(self, key: str, value: str, *, is_text: bool) -> None:
        """The whole of it, and the words of it: of a URL's password only that may turn up in a text."""
        secret = bool(_SECRET.search(key))
        if not (is_text or secret):
            return
        least = _SHORTEST_SECRET if secret else _SHORTEST
        self._seen |= {value} if len(value) >= least else set()
        words = re.split(r"[\s=:/@&?;,\"']+", value)
        self._seen |= {each for each in words if len(each) >= _SHORTEST and not re.fullmatch(r"[a-z.-]+", each)}

    def _learn(self, text: str) -> None:
        for each in (*re.findall(r'"([^"\n]*)"', text), *text.split()):
            self._remember("", each, is_text=True)


def without_credentials(url: str) -> str:
    """A URL's scheme, host and port; what comes before the host and after the port may be anything."""
    try:
        parts = urlsplit(url if "://" in url else f"//{url}")
        host, port = parts.hostname or "", parts.port
    except ValueError:
        return LEFT_OUT
    if parts.scheme not in ("http", "https") and not (parts.scheme == "" and (port or _is_address(host))):
        return LEFT_OUT
    place = f"[{host}]" if _is_address(host) and ":" in host else host
    if not (_is_address(host) or _HOST.fullmatch(host)):
        return LEFT_OUT
    return (f"{parts.scheme}://" if parts.scheme else "") + place + (f":{port}" if port else "")


def _harmless(key: str, value: object) -> object:
    """What of a value is shown under this key, "" for one that is not known; None for nothing."""
    folded = _folded(key)
    if isinstance(value, bool):
        return value
    if isinstance(value, int | float):
        return value if abs(value) < _SMALL or folded in _KNOWN else None
    if not isinstance(value, str):
        return None
    if value == "" or _is_address(value) or (value.isdigit() and (len(value) <= 2 or folded in _NUMBERS)):
        return value
    if folded in _URLS:
        return without_credentials(value)
    plain = (folded in _NAMES and _NAME.fullmatch(value)) or (folded in _PATHS and _PATH.fullmatch(value))
    return value if plain else None


def _is_address(text: str) -> bool:
    """Addresses, prefixes, ranges, MACs, and an address with a port."""
    if _MAC.fullmatch(text):
        return True
    with_port = _WITH_PORT.fullmatch(text)
    return _all_parse([with_port["six"] or with_port["four"]] if with_port else text.split("-"))


def _all_parse(texts: Iterable[str]) -> bool:
    try:
        return all("%" not in each and ip_interface(each) for each in texts)  # a zone may be any text
    except ValueError:
        return False


def _folded(key: str) -> str:
    return key.lower().replace("_", "").replace("-", "")
