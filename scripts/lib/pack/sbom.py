"""Whose software is in the bundle and in the image: every file's packages, and both told as SPDX 2.3.

tulle.spec knows what it froze from where, so it asks here whom that belongs to and leaves the answer beside
the executables, as `packages.json`; scripts/image adds what it takes from the system. Promises: a file of which
nobody knows the owner is an error, never left out; the same input gives the same bytes.

    {"packages": [{"name": "libnftables1", "version": "1.0.6-2", "kind": "deb", "licence": "GPL-2.0-only"}, ...],
     "files": {"_internal/libnftables.so.1": ["libnftables1"], "tulled": ["tulle", "pyinstaller", "msgspec", ...]}}
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import re
import subprocess
import sysconfig
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[3]
DOCUMENTS = Path("/usr/share/doc")

_CLASSIFIERS = {
    "Apache Software License": "Apache-2.0",
    "BSD License": "BSD-3-Clause",
    "MIT License": "MIT",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "Python Software Foundation License": "PSF-2.0",
    "GNU General Public License v2 (GPLv2)": "GPL-2.0-only",
    "ISC License (ISCL)": "ISC",
}
_SPOKEN = {"apache 2": "Apache-2.0", "apache 2.0": "Apache-2.0", "apache license 2.0": "Apache-2.0", "mit": "MIT",
           "mit license": "MIT", "bsd": "BSD-3-Clause", "new bsd license": "BSD-3-Clause", "mpl-2.0": "MPL-2.0"}
_SPECIAL = {"pyinstaller": "GPL-2.0-or-later WITH Bootloader-exception"}
"""What this says in words that no table covers."""
_SAME = {"expat": "MIT", "mit": "MIT", "apache-2.0": "Apache-2.0", "bsd-3-clause": "BSD-3-Clause", "zlib": "Zlib",
         "bsd-2-clause": "BSD-2-Clause", "isc": "ISC", "mpl-2.0": "MPL-2.0"}
_REFERENCE = "LicenseRef-Debian-"


class Package(NamedTuple):
    """`kind`: where it comes from, as package URLs call it (deb, pypi, generic). `licence`: an SPDX expression."""

    name: str
    version: str
    kind: str
    licence: str


class Inventory(NamedTuple):
    """Packages by name, and the names of the packages that each file is made of."""

    packages: dict[str, Package]
    files: dict[str, tuple[str, ...]]


class UnknownOwner(Exception):
    """A file that no package has."""


def owners(paths: Iterable[str]) -> dict[str, Package]:
    """The package of each of these files of this machine. Raises UnknownOwner."""
    found: dict[str, Package] = {}
    system = []
    for path in sorted(set(paths)):
        package = _python_package(path)
        if package is None:
            system.append(path)
        else:
            found[path] = package
    return found | _system_packages(system)


def collect(files: Mapping[str, Iterable[str]]) -> Inventory:
    """What files are made of, from the paths that went into each of them. Raises UnknownOwner."""
    known = owners(path for paths in files.values() for path in paths)
    packages = {each.name: each for each in sorted(set(known.values()))}
    made_of = {name: tuple(sorted({known[each].name for each in files[name]})) for name in sorted(files)}
    return Inventory(packages, made_of)


def save(inventory: Inventory, path: Path) -> None:
    """Leave it in a file."""
    packages = [each._asdict() for each in inventory.packages.values()]
    path.write_text(json.dumps({"packages": packages, "files": inventory.files}, indent=1) + "\n")


def load(path: Path) -> Inventory:
    """What `save` left. Raises OSError."""
    data = json.loads(path.read_text())
    packages = {each["name"]: Package(**each) for each in data["packages"]}
    return Inventory(packages, {name: tuple(each) for name, each in data["files"].items()})


# --- Python packages ---


@cache
def _distributions() -> dict[str, Package]:
    """Of each file that pip installed beside us, the distribution."""
    found = {}
    for each in importlib.metadata.distributions():
        package = Package(each.metadata["Name"].lower(), each.version, "pypi", _licence(each.metadata))
        for file in each.files or ():
            found[os.path.realpath(str(each.locate_file(file)))] = package
    return found


def metadata_files(paths: Iterable[str]) -> list[Path]:
    """The METADATA files of the distributions that these files belong to: some ask for their own version by it."""
    wanted = {package for each in paths if (package := _distributions().get(os.path.realpath(each)))}
    found = (Path(path) for path, package in _distributions().items() if package in wanted)
    return sorted(path for path in found if path.name == "METADATA")


def _python_package(path: str) -> Package | None:
    """Ours, a distribution's, or None for the system's."""
    real = os.path.realpath(path)
    package = _distributions().get(real)
    if package is not None:
        return package
    inside = Path(real).is_relative_to(ROOT) and not Path(real).is_relative_to(ROOT / ".venv")
    return ours() if inside else None


@cache
def ours() -> Package:
    """Tulle itself."""
    version = re.search(r'^version = "(.*)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert version is not None
    return Package("tulle", version[1], "generic", "Apache-2.0")


def _licence(metadata: importlib.metadata.PackageMetadata) -> str:
    name = metadata["Name"].lower()
    if name in _SPECIAL:
        return _SPECIAL[name]
    expressions = metadata.get_all("License-Expression")
    if expressions:
        return str(expressions[0])
    words = str((metadata.get_all("License") or [""])[0]).strip()
    for classifier in metadata.get_all("Classifier") or ():
        if classifier.startswith("License ::") and classifier.rpartition(" :: ")[2] in _CLASSIFIERS:
            return _CLASSIFIERS[classifier.rpartition(" :: ")[2]]
    return _SPOKEN.get(words.lower(), words if re.fullmatch(r"[A-Za-z0-9.+-]+", words) else "NOASSERTION")


# --- Debian's packages ---


def _system_packages(paths: Sequence[str]) -> dict[str, Package]:
    """Which Debian packages files belong to; an interpreter that is not Debian's is a package of its own."""
    found, names = {}, _dpkg_search(paths)
    for path in paths:
        if path in names:
            found[path] = debian_package(names[path])
        elif os.path.realpath(path).startswith(os.path.realpath(sysconfig.get_config_var("prefix")) + "/lib"):
            found[path] = Package("cpython", str(sysconfig.get_config_var("py_version")), "generic", "PSF-2.0")
        else:
            raise UnknownOwner(f"{path}: no package has this file, so the bill of materials would be incomplete")
    return found


def _dpkg_search(paths: Sequence[str]) -> dict[str, str]:
    """The package of each path. dpkg knows some files below /lib and others below /usr/lib, which is the same place."""
    spellings: dict[str, str] = {}
    for path in paths:
        for each in (path, os.path.realpath(path)):
            spellings[each] = path
            spellings[each.removeprefix("/usr") if each.startswith("/usr/lib") else f"/usr{each}"] = path
    if not spellings:
        return {}
    command = ["dpkg-query", "--search", *spellings]
    answer = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "LC_ALL": "C"})
    lines = (line.rpartition(": ") for line in answer.stdout.splitlines() if not line.startswith("diversion "))
    return {spellings[path]: re.split("[,:]", names)[0] for names, _, path in lines if path in spellings}


@cache
def debian_package(name: str) -> Package:
    """An installed package of this machine. Raises UnknownOwner."""
    command = ["dpkg-query", "--show", "--showformat", "${Version}\n", name]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    if answer.returncode:
        raise UnknownOwner(f"Debian package {name} is not installed")
    return Package(name, answer.stdout.split()[0], "deb", debian_licence(name, copyright_of(name).read_text()))


def copyright_of(name: str) -> Path:
    """The file in which Debian says who wrote a package, and what that person allows."""
    return DOCUMENTS / name / "copyright"


def debian_licence(package: str, text: str) -> str:
    """What a package's `copyright` file says of most of its files, as an SPDX expression.

    Where the file has no fixed form (https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/), or names what
    SPDX has no name for, it is a reference to the file itself.
    """
    whole = re.search(r"^Files:\s*\*.*?^License:[ \t]*(\S[^\n]*)$", text, re.MULTILINE | re.DOTALL)
    names = [_gnu(each) or _SAME.get(each.lower()) for each in (whole[1] if whole else "").strip().split(" or ")]
    return " OR ".join(filter(None, names)) if all(names) else f"{_REFERENCE}{package}"


def _gnu(words: str) -> str:
    """The GNU licences, which Debian calls GPL-2+ and SPDX GPL-2.0-or-later; "" for another."""
    found = re.fullmatch(r"(A?L?GPL)-(\d)(?:\.(\d))?(\+?)", words)
    return f"{found[1]}-{found[2]}.{found[3] or 0}-{'or-later' if found[4] else 'only'}" if found else ""


# --- SPDX ---


class Content(NamedTuple):
    """A file as it is shipped: its path there, its bytes, and the packages that it is made of."""

    path: str
    data: bytes
    packages: tuple[str, ...]


def spdx(name: str, packages: Mapping[str, Package], contents: Sequence[Content], created: str) -> str:
    """The bill of materials as an SPDX 2.3 document (https://spdx.github.io/spdx-spec/v2.3/), in JSON."""
    licences = sorted({each.licence for each in packages.values() if each.licence.startswith(_REFERENCE)})
    whole = hashlib.sha256("".join(f"{each.path}{_sha256(each.data)}" for each in contents).encode()).hexdigest()
    document = {
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": "SPDXRef-DOCUMENT",
        "name": name,
        "documentNamespace": f"https://spdx.org/spdxdocs/{name}-{whole[:32]}",
        "creationInfo": {"created": created, "creators": ["Tool: tulle-scripts-image"]},
        "packages": [_spdx_package(each) for each in packages.values()],
        "files": [_spdx_file(number, each) for number, each in enumerate(contents)],
        "hasExtractedLicensingInfos": [_spdx_licence(each) for each in licences],
        "relationships": _relationships(contents),
    }
    return json.dumps(document, indent=1) + "\n"


def _spdx_id(package: str) -> str:
    return "SPDXRef-Package-" + re.sub(r"[^A-Za-z0-9.]+", "-", package)


def _spdx_package(package: Package) -> dict[str, object]:
    prefix = {"deb": "pkg:deb/debian", "pypi": "pkg:pypi", "generic": "pkg:generic"}[package.kind]
    locator = f"{prefix}/{package.name}@{package.version.replace('+', '%2B').replace(':', '%3A')}"
    return {
        "name": package.name,
        "SPDXID": _spdx_id(package.name),
        "versionInfo": package.version,
        "downloadLocation": "NOASSERTION",
        "filesAnalyzed": False,
        "licenseConcluded": "NOASSERTION",
        "licenseDeclared": package.licence,
        "copyrightText": "NOASSERTION",
        "externalRefs": [
            {"referenceCategory": "PACKAGE-MANAGER", "referenceType": "purl", "referenceLocator": locator}
        ],
    }


def _spdx_file(number: int, content: Content) -> dict[str, object]:
    sums = {"SHA1": hashlib.sha1(content.data, usedforsecurity=False).hexdigest(), "SHA256": _sha256(content.data)}
    return {
        "fileName": f"./{content.path}",
        "SPDXID": f"SPDXRef-File-{number}",
        "checksums": [{"algorithm": kind, "checksumValue": value} for kind, value in sums.items()],
        "licenseConcluded": "NOASSERTION",
        "copyrightText": "NOASSERTION",
    }


def _spdx_licence(reference: str) -> dict[str, object]:
    return {"licenseId": reference, "extractedText": copyright_of(reference.removeprefix(_REFERENCE)).read_text()}


def _relationships(contents: Sequence[Content]) -> list[dict[str, str]]:
    describes = ("SPDXRef-DOCUMENT", "DESCRIBES", _spdx_id(ours().name))
    contains = [
        (_spdx_id(package), "CONTAINS", f"SPDXRef-File-{number}")
        for number, each in enumerate(contents)
        for package in each.packages
    ]
    return [
        {"spdxElementId": one, "relationshipType": kind, "relatedSpdxElement": other}
        for one, kind, other in (describes, *contains)
    ]


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
