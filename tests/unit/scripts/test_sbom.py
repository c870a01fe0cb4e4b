"""Whose a file is, and under which licence: what the bill of materials is made of."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from scripts.lib.pack import rootfs, sbom

FORM = "Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\n\n"


@pytest.mark.parametrize(("text", "licence"), [
    (FORM + "Files: *\nCopyright: A\nLicense: GPL-2+\n\nFiles: b\nLicense: MIT\n", "GPL-2.0-or-later"),
    (FORM + "Files: *\nCopyright: A\n  B\nLicense: LGPL-2.1\n the text\n", "LGPL-2.1-only"),
    (FORM + "Files: *\nCopyright: A\nLicense: GPL-2+ or LGPL-3+\n", "GPL-2.0-or-later OR LGPL-3.0-or-later"),
    (FORM + "Files: *\nCopyright: A\nLicense: Expat\n", "MIT"),
    (FORM + "Files: *\nCopyright: A\nLicense: of our own making\n", "LicenseRef-Debian-p"),
    ("It was packaged by A.\nLicense: MIT\n", "LicenseRef-Debian-p"),
])
def test_debians_licences_are_told_by_their_spdx_names(text: str, licence: str) -> None:
    assert sbom.debian_licence("p", text) == licence


def test_libraries_are_found_wherever_the_bundle_lies() -> None:
    answer = (
        "\tlinux-vdso.so.1 (0x00007ffd)\n\tlibbz2.so.1.0 => /srv/a b/_internal/libbz2.so.1.0 (0x00007f01)\n"
        "\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f02)\n\t/lib64/ld-linux-x86-64.so.2 (0x00007f03)\n"
    )
    assert rootfs.loaded(answer) == {
        "/srv/a b/_internal/libbz2.so.1.0", "/lib/x86_64-linux-gnu/libc.so.6", "/lib64/ld-linux-x86-64.so.2",
    }


def test_each_file_has_its_owner() -> None:
    owners = sbom.owners([str(Path(sbom.__file__)), pytest.__file__])
    assert {each.name: each.kind for each in owners.values()} == {"tulle": "generic", "pytest": "pypi"}


def test_a_file_of_nobody_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "library.so").write_text("")
    with pytest.raises(sbom.UnknownOwner, match=r"library\.so"):
        sbom.owners([str(tmp_path / "library.so")])


def test_an_inventory_is_read_as_it_was_saved(tmp_path: Path) -> None:
    inventory = sbom.collect({"b": [pytest.__file__], "a": [sbom.__file__, pytest.__file__]})
    assert inventory.files == {"a": ("pytest", "tulle"), "b": ("pytest",)}
    sbom.save(inventory, tmp_path / "packages.json")
    assert sbom.load(tmp_path / "packages.json") == inventory


def test_the_bill_names_each_file_with_its_packages() -> None:
    packages = {"a": sbom.Package("a", "1:2+b", "deb", "MIT")}
    contents = [sbom.Content("usr/x", b"x", ("a",))]
    bill = json.loads(sbom.spdx("t", packages, contents, "1970-01-01T00:00:00Z"))
    assert bill["packages"][0]["externalRefs"][0]["referenceLocator"] == "pkg:deb/debian/a@1%3A2%2Bb"
    found = {(each["spdxElementId"], each["relatedSpdxElement"]) for each in bill["relationships"]}
    assert ("SPDXRef-Package-a", "SPDXRef-File-0") in found
    assert bill == json.loads(sbom.spdx("t", packages, contents, "1970-01-01T00:00:00Z"))
    assert os.path.basename(bill["files"][0]["fileName"]) == "x"
