"""The house: who may import whom, who may touch what, and how long a function may be.

The rooms are listed with what each may look into; an import that is not on the list is an arrow that runs up or
sideways. A new module must find its room here, and a new arrow needs a reason beside it.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from cni_plugin.model.every import kinds
from cni_plugin.model.links import Tunnel

ROOT = Path(__file__).parents[2]
PACKAGES = ("cni_plugin", "ipam")
LONGEST_FUNCTION = 60
LONGEST_FILE = 410
MOST_PARAMETERS = 5

ROOMS: dict[str, set[str]] = {
    # The executable: its start-up is the plugin's latency, so it takes nothing along.
    "client": set(),
    # Values and words, the ground floor. `conf` names keys that `spec` has types for.
    "errors": set(),
    "histogram": set(),
    "meter": set(),
    "decoding": set(),
    # What of others' configurations may be shown: by the agent, and by the tool.
    "harmless": {"decoding"},
    "wire": set(),
    "spec": {"errors"},
    "model": {"marks"},
    # How what is ours is known in a kernel, and which pod's which interface it is.
    "marks": set(),
    "attachment": {"marks"},
    "keys": set(),
    "conf": {"decoding", "errors", "keys", "spec", "marks"},
    "wish": {"errors", "conf", "spec"},
    "diff": {"model"},
    "describe": {"diff"},
    # Where packets go between nodes.
    "network": {"errors", "conf", "rooms"},
    "cluster": {"conf", "network"},
    "backends": {"errors", "network", "cluster", "model", "conf", "marks", "rooms"},
    # What flannel says of a network, and its backend says of itself.
    "flannel": {"errors", "doubts", "conf", "network", "backends"},
    # What was probably meant by keys that none of these has.
    "doubts": {"keys", "conf", "network", "cluster", "backends"},
    # What nodes ask each other through the overlay, in datagrams: the agent answers, `tullectl` asks. Pure.
    "mesh": {"network", "cluster"},
    # Desired states. Pure. A peer that a backend refuses is left out of a plan, with the error.
    "plan": {"errors", "spec", "conf", "network", "model", "cluster", "backends", "attachment", "marks"},
    # The door. `describe` words its errors.
    "kernel": {"model", "diff", "describe", "meter", "marks"},
    # What is on disk: attachments, and what `plan` has masqueraded, through the door's files.
    "store": {"decoding", "model", "plan", "kernel", "attachment", "spec"},
    # A file of a room, by its name.
    "rooms": set(),
    # Where addresses come from. They are told of pods, and know of no request.
    "ipams": {"attachment", "conf", "delegate", "errors", "ipam", "kernel", "rooms", "spec", "wish"},
    # How a pod gets its interface. Pure, but for what they ask a kernel that is handed in.
    "wirings": {"attachment", "conf", "errors", "kernel", "marks", "model", "plan", "rooms", "spec"},
    # What is added to an interface, or to the node for it. Pure.
    "features": {"attachment", "conf", "model", "plan", "rooms", "spec"},
    # Who is called, and what it is told: the keys of all who take part.
    "plugins": {"conf", "ipams", "errors", "features", "wirings"},
    # Other executables.
    "delegate": {"decoding", "errors", "kernel"},
    # The parts of a node that are kept true, and how: by a verb once, by the agent for ever.
    "node": {
        "rooms", "decoding", "errors", "conf", "model", "diff", "cluster", "backends", "plan", "kernel", "store",
        "doubts", "attachment", "marks", "plugins", "features", "wirings",
    },
    # The requests themselves. `ipam` is known here and above, nowhere below.
    "verbs": {
        "errors", "decoding", "spec", "conf", "model", "diff", "describe", "plan", "kernel", "store", "node", "ipam",
        "meter", "wish", "doubts", "attachment", "marks", "ipams", "plugins", "features", "wirings",
    },
    # The entries. They choose a kernel. The agent carves a node's subnet out of the cluster's network by `ipam`, and
    # knows by `delegate` who asks on behalf of a plugin that was called here.
    "agent": {
        "client", "errors", "decoding", "harmless", "keys", "spec", "conf", "network", "cluster", "flannel",
        "backends", "model", "diff", "kernel", "store", "node", "delegate", "verbs", "wire", "meter", "histogram",
        "ipam", "mesh", "doubts", "marks", "rooms", "ipams", "plugins", "wirings",
    },
    "ctl": {
        "client", "meter", "decoding", "harmless", "wire", "errors", "spec", "conf", "model", "diff", "describe",
        "doubts", "plan", "kernel", "store", "node", "verbs", "ipam", "backends", "cluster", "histogram", "mesh",
        "attachment", "marks", "rooms", "ipams", "plugins", "features", "wirings",
    },
    # Stands alone: it could be anybody's.
    "ipam": set(),
}

KERNEL: dict[str, set[str]] = {
    # What a kernel takes by file, by system call or by name: no netlink.
    "host": {"errors"},
    # Netlink: messages, sockets, and what they have in common.
    "rtnl": {"errors", "host"},
    # What one kind of object is to rtnetlink, or is set by hand: no file here knows another.
    "rtnl.objects": {"errors", "host", "rtnl"},
    "host.objects": {"host", "rtnl"},
    # Tables of ours: rules by libnftables in a process of its own, sets and what is in them by messages.
    "nft": {"errors", "host", "rtnl"},
    # What the kernel tells by itself.
    "watch": {"errors", "host", "rtnl"},
    # What only looks.
    "see": {"kinds", "door", "errors", "host", "modules", "nft", "rtnl"},
    # Above them what serves every kind of object, and the kernels that stand behind the door.
    "modules": set(),
    "errors": {"modules"},
    "kinds": {"rtnl"},
    "apply": {"errors", "kinds", "nft", "rtnl"},
    "read": {"errors", "kinds", "nft", "rtnl"},
    "door": set(),
    "fake": {"door", "errors"},
    "recording": {"door", "fake"},
    "linux": {"apply", "door", "host", "kinds", "nft", "read", "rtnl", "see"},
    "open": {"door", "linux"},
}
"""The rooms of `kernel/`, and what each may look into there."""

AGENT: dict[str, set[str]] = {
    # What all of it stands on: the settings, a runtime's folder, how often to try, what is wrong now.
    "settings": set(),
    "conflist": set(),
    "patience": set(),
    "problems": set(),
    "guard": {"patience"},
    # What it tells of itself: its log, its counts, and who asks for them.
    "metrics": set(),
    # Requests, from a socket to a worker and back.
    "serve": {"guard", "metrics"},
    # Who tells of a cluster; and this node's part in it.
    "sources": {"conflist", "patience"},
    "cluster": {"conflist", "guard", "settings", "sources"},
    # Keeps the node true.
    "collector": set(),
    "loop": {"collector", "guard", "patience", "problems", "settings"},
    # Programs of other makers, kept running.
    "supervisor": {"guard", "patience"},
    # What puts them together, and what can be asked of an agent that does not run.
    "service": {"cluster", "guard", "loop", "metrics", "serve", "settings", "supervisor"},
    "checking": {"cluster", "conflist", "metrics", "settings", "sources"},
    "install": set(),
    "__main__": {"checking", "install", "service", "settings"},
}
"""The rooms of `agent/`, and what each may look into there."""

CTL: dict[str, set[str]] = {
    # What all of it stands on: the terminal, options, the machine itself, the agent's word, the runtime's folder.
    "show": set(),
    "options": {"show"},
    "notes": set(),
    "reach": set(),
    "host": {"reach"},
    "ask": set(),
    "configs": set(),
    # Who is there, and what this node has; a map is drawn of the first.
    "cluster": {"configs", "host", "options", "reach", "show"},
    "look": {"ask", "cluster", "host", "notes", "options", "show"},
    "map": {"cluster", "options", "show"},
    # What is wrong, a topic a file, seen by the eyes; all of them together; how that looks.
    "eyes": {"ask", "cluster", "configs", "host", "look", "notes"},
    "doctor": {"cluster", "configs", "eyes", "look", "reach"},
    "diagnosis": {"doctor", "eyes"},
    "findings": {"diagnosis", "doctor", "show"},
    # What uses all of that.
    "cleanup": set(),
    "commands": {"cleanup", "diagnosis", "eyes", "findings", "host", "look", "options", "show"},
    "support": {"ask", "diagnosis", "eyes", "host", "look", "notes", "options", "show"},
    "__main__": {"cluster", "commands", "look", "map", "show", "support"},
}
"""The rooms of `ctl/`, and what each may look into there."""

ONLY_IN: dict[str, tuple[str, ...]] = {
    # The one importer of pyroute2, which is a codec here and never a client.
    "pyroute2": ("cni_plugin/kernel/rtnl/schema.py",),
    "ctypes": ("cni_plugin/kernel/",),
    "socket": ("cni_plugin/kernel/", "cni_plugin/agent/", "cni_plugin/ctl/"),
    "_socket": ("cni_plugin/client.py",),
    "fcntl": ("cni_plugin/kernel/", "ipam/store.py"),
    "netaddr": ("ipam/",),
    # Speaks JSON over HTTP to etcd, so nobody else need know either.
    "etcd3gw": ("cni_plugin/agent/sources/lease/gateway.py",),
    "prometheus_client": ("cni_plugin/agent/metrics/prometheus.py",),
    # The Kubernetes API. They take 20 MiB and a tenth of a second, so only an agent with that source imports them.
    "lightkube": ("cni_plugin/agent/sources/kube/",),
    "httpx2": ("cni_plugin/agent/sources/kube/",),
    "typer": ("cni_plugin/ctl/",),
    "rich": ("cni_plugin/ctl/",),
}

FORBIDDEN = {
    "subprocess": "other programs are started by kernel/host/program.py alone, without a shell",
    "multiprocessing": "one worker does all netlink: the kernel would serialise it anyway",
    "asyncio": "one request, fewest hops",
    "logging": "takes longer to import than a pod takes to wire; stderr is the log",
    "dataclasses": "drags in inspect, 16 ms; msgspec structs and named tuples do",
    "pickle": "records are JSON that a person can read",
    "tempfile": "drags in random and shutil; a temporary file is named after its target",
    "requests": "nothing here speaks HTTP",
}

CALLS: dict[str, tuple[str, ...]] = {
    # Whole or not at all: kernel.host.files writes, ipam.store leases; knobs has /proc/sys.
    "open": ("cni_plugin/kernel/",),
    "os.open": ("cni_plugin/kernel/", "cni_plugin/agent/metrics/log.py", "ipam/store.py", "ipam/hints.py",
        "ipam/index.py", "ipam/own.py", "ipam/spares.py"),
    "os.posix_spawn": ("cni_plugin/kernel/host/program.py",),
    # libnftables calls exit(3), so it must have a process of its own, at once and in the namespace of whoever asks.
    "os.fork": ("cni_plugin/kernel/nft/nft_process.py",),
    "os.pipe2": (),
    "os.memfd_create": ("cni_plugin/kernel/host/program.py",),
    "posix.execve": ("cni_plugin/client.py",),
    # One door for JSON, which bounds it.
    "msgspec.json.decode": ("cni_plugin/decoding.py",),
    "msgspec.json.Decoder": (),
    "print": ("cni_plugin/store/records.py", "cni_plugin/node/", "cni_plugin/verbs/", "cni_plugin/agent/",
        "cni_plugin/ctl/"),
    "open_kernel": ("cni_plugin/agent/", "cni_plugin/ctl/", "cni_plugin/verbs/run.py"),
}

NEVER_CALLED = ("os.system", "os.popen", "os.execv", "os.execve", "time.sleep", "eval", "exec", "breakpoint")


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse((ROOT / path).read_text(), str(path))


def modules() -> list[Path]:
    return sorted(path.relative_to(ROOT) for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


CODE = [path for path in modules() if path.name != "__init__.py"]


def room_of(module: str) -> str:
    """`cni_plugin.verbs.add` is in `verbs`, `ipam.store` in `ipam`."""
    parts = module.split(".")
    return parts[0] if parts[0] == "ipam" else parts[1]


def inner_room(module: str) -> str:
    """`rtnl.objects.bridge` is in `rtnl.objects`, `rtnl.codec` in `rtnl`, `apply` in `apply`."""
    first, *rest = module.split(".")
    return f"{first}.objects" if rest[:1] == ["objects"] else first


def within(path: Path, package: str) -> Iterator[str]:
    """The modules below a package that a module imports, by their names in it: `rtnl.codec`, `errors`."""
    prefix = f"{package}."
    yield from (name.removeprefix(prefix) for name in imported(path) if name.startswith(prefix))


def room(path: Path) -> str:
    return room_of(".".join(path.with_suffix("").parts))


def imported(path: Path) -> Iterator[str]:
    """Everything that a module imports, wherever in it, by its full name."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from (each.name for each in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or "." * node.level
            yield from (f"{node.module}.{each.name}" for each in node.names)


def looks_into(path: Path) -> set[str]:
    """The rooms that a module imports from, its own left out."""
    names = [name for name in imported(path) if name.startswith("cni_plugin.") or name.split(".")[0] == "ipam"]
    return {room_of(name) for name in names} - {room(path)}


def calls(path: Path) -> Iterator[tuple[str, str]]:
    """Every call by a plain or dotted name, and where it stands."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), f"{path}:{node.lineno}"


def functions() -> Iterator[tuple[ast.FunctionDef | ast.AsyncFunctionDef, str]]:
    """Every function, and where it stands."""
    for path in CODE:
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield node, f"{path}:{node.lineno}: {node.name}"


def length(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    return (node.end_lineno or 0) - node.lineno + 1


def test_every_module_has_a_room() -> None:
    assert {room(path) for path in CODE} == set(ROOMS)


def test_imports_go_down_only() -> None:
    assert [(str(path), up) for path in CODE if (up := looks_into(path) - ROOMS[room(path)])] == []


@pytest.mark.parametrize(("package", "rooms"), [("kernel", KERNEL), ("agent", AGENT), ("ctl", CTL)])
def test_imports_go_down_within_a_room_of_rooms_too(package: str, rooms: dict[str, set[str]]) -> None:
    used: dict[str, set[str]] = {}
    for path in [path for path in CODE if room(path) == package]:
        mine = inner_room(".".join(path.with_suffix("").parts[2:]))
        into = set(map(inner_room, within(path, f"cni_plugin.{package}")))
        used.setdefault(mine, set()).update(into - {mine})
    assert used == rooms


def test_no_kind_of_object_knows_another() -> None:
    """What a kind is to the kernel is in its file alone, and so one can be added or taken away."""
    kinds = [path for path in CODE if path.parent.name == "objects" and room(path) == "kernel"]
    assert len(kinds) > 10
    assert [str(path) for path in kinds for name in within(path, "cni_plugin.kernel") if ".objects" in name] == []


def test_no_source_knows_another_nor_what_another_has_behind_it() -> None:
    """Each of these folders is one source's alone, and so a source can be added or taken away."""
    users: dict[str, set[str]] = {}
    room = ROOT / "cni_plugin/agent/sources"
    for path in [path for path in CODE if (ROOT / path).is_relative_to(room)]:
        mine = path.with_suffix("").parts[3]
        for name in within(path, "cni_plugin.agent.sources"):
            users.setdefault(name.split(".")[0], set()).update({mine} - {name.split(".")[0]})
    assert len(users.pop("contract")) > 3
    assert {name: by for name, by in users.items() if len(by) > (room / name).is_dir()} == {}



@pytest.mark.parametrize("kind", sorted(each.MADE_BY for each in kinds(Tunnel)))
def test_a_kind_of_tunnel_is_named_by_its_backend_and_its_object_alone(kind: str) -> None:
    """Who else must know something of it asks the backend, or the class, by words that fit any other."""
    own = {f"cni_plugin/backends/{kind}.py", f"cni_plugin/kernel/rtnl/objects/{kind}.py", "cni_plugin/model/links.py"}
    found = {str(path) for path in CODE if kind in said_in_code(path)}
    assert found and found <= own


def said_in_code(path: Path) -> str:
    """All that a module says in names and texts, its documentation left out; in lower case."""
    whole = ast.parse((ROOT / path).read_text())
    for node in ast.walk(whole):
        for name, value in ast.iter_fields(node):
            if name == "body" and isinstance(value, list):
                value[:] = [each for each in value if not is_documentation(each)]
    return ast.unparse(whole).lower()


def is_documentation(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def test_no_files_import_each_other_in_a_circle() -> None:
    names = {".".join(path.with_suffix("").parts): path for path in CODE}
    graph = {name: {each for each in imported(path) if each in names} for name, path in names.items()}
    assert len([*TopologicalSorter(graph).static_order()]) == len(CODE)  # raises CycleError, which shows the circle


def test_imports_are_absolute() -> None:
    assert [str(path) for path in CODE if any(name.startswith(".") for name in imported(path))] == []


def test_no_two_rooms_look_into_each_other() -> None:
    houses = (ROOMS, KERNEL, AGENT, CTL)
    both_ways = {frozenset((a, b)) for each in houses for a in each for b in each[a] if a in each[b]}
    assert both_ways == set()


def test_an_arrow_that_nobody_needs_any_more_is_taken_off_the_list() -> None:
    used: dict[str, set[str]] = {}
    for path in CODE:
        used.setdefault(room(path), set()).update(looks_into(path))
    assert {name: ROOMS[name] - each for name, each in used.items() if ROOMS[name] - each} == {}


def test_what_has_a_room_of_its_own_is_imported_there_alone() -> None:
    found = [(path, name.split(".")[0]) for path in CODE for name in imported(path)]
    assert sorted({(str(path), FORBIDDEN[name]) for path, name in found if name in FORBIDDEN}) == []
    assert sorted({
        (str(path), name) for path, name in found if name in ONLY_IN and not str(path).startswith(ONLY_IN[name])
    }) == []


def test_what_has_a_room_of_its_own_is_called_there_alone() -> None:
    found = [(name, where) for path in CODE for name, where in calls(path)]
    assert [(name, where) for name, where in found if name in NEVER_CALLED] == []
    assert [(name, where) for name, where in found if name in CALLS and not where.startswith(CALLS[name])] == []


def test_the_client_imports_only_what_is_built_into_every_interpreter() -> None:
    assert set(imported(Path("cni_plugin/client.py"))) <= {"_socket", "posix", "sys"}


def test_a_package_is_made_without_code() -> None:
    packages = [path for path in modules() if path.name == "__init__.py"]
    assert len(packages) > 5
    assert [str(path) for path in packages if tree(path).body] == []


def test_a_module_opens_with_why_it_exists() -> None:
    assert [str(path) for path in CODE if len(ast.get_docstring(tree(path)) or "") < 60] == []


def test_what_is_public_says_what_it_promises() -> None:
    found = [
        f"{path}:{node.lineno}: {node.name}"
        for path in CODE
        for node in tree(path).body
        if isinstance(node, ast.FunctionDef | ast.ClassDef)
        and not node.name.startswith("_")
        and not ast.get_docstring(node)
        and not (isinstance(node, ast.ClassDef) and ast.unparse(node.bases[0]) in ("Conf", "Keys"))  # its keys say it
    ]
    assert found == []


def test_a_function_can_be_seen_whole() -> None:
    assert [where for node, where in functions() if length(node) > LONGEST_FUNCTION] == []


def test_most_functions_are_small() -> None:
    lengths = sorted(length(node) for node, _ in functions())
    assert lengths[len(lengths) // 2] <= 14


def test_a_function_has_few_parameters_and_its_flags_are_named() -> None:
    """But the handlers of a command line, whose parameters are its options, and what turns one flag into something."""
    many, flags = [], []
    for node, where in functions():
        given = [each for each in (*node.args.posonlyargs, *node.args.args) if each.arg not in ("self", "cls")]
        handler = "/commands.py:" in where and not node.name.startswith("_")
        if handler or any("command" in ast.unparse(each) for each in node.decorator_list):
            continue
        if len(given) > MOST_PARAMETERS:
            many.append(where)
        if len(given) > 1 and any(each.annotation and ast.unparse(each.annotation) == "bool" for each in given):
            flags.append(where)
    assert (many, flags) == ([], [])


def test_a_file_is_no_drawer() -> None:
    assert [str(path) for path in CODE if len((ROOT / path).read_text().splitlines()) > LONGEST_FILE] == []


EFFECTS = (ast.For, ast.While, ast.With, ast.Try, ast.Delete, ast.Raise)


def has_effect(node: ast.stmt) -> bool:
    """Whether a statement at the top of a module does more than define."""
    if isinstance(node, ast.If):
        return ast.unparse(node.test) not in ("__name__ == '__main__'", "TYPE_CHECKING")
    if isinstance(node, ast.Expr):
        adds_a_command = isinstance(node.value, ast.Call) and ast.unparse(node.value.func) == "app.add_typer"
        return not (isinstance(node.value, ast.Constant) or adds_a_command)
    return isinstance(node, EFFECTS)


def test_an_import_has_no_effect() -> None:
    assert [f"{path}:{node.lineno}" for path in CODE for node in tree(path).body if has_effect(node)] == []
