"""scripts/install puts a release in place under the eyes of running runtimes, and takes all of it away again.

Most of it is shown with a stand-in bundle whose executables only say which release they are of; where it matters that
the real one runs, the real one is installed.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conformance.conftest import BUNDLE, REPOSITORY
from tests.pace import PATIENCE

NETWORK = "etc/cni/net.d/10-tulle.conflist"
CLUSTER = '{"nodes": [{"name": "n1", "address": "192.0.2.1", "podCIDRs": ["10.1.0.0/24"]}]}'


class Site:
    """A directory that becomes the root of a machine, and a checkout to install there from."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "root"
        self.checkout = folder / "checkout"
        self.root.mkdir(parents=True)
        for each in ("scripts", "conf"):
            shutil.copytree(REPOSITORY / each, self.checkout / each, ignore=shutil.ignore_patterns("__pycache__"))
        self.build("1")

    def build(self, release: str) -> None:
        """Put a bundle in dist/ whose executables say this release's name."""
        bundle = self.checkout / "dist" / "tulle"
        shutil.rmtree(bundle, ignore_errors=True)
        bundle.mkdir(parents=True)
        (bundle / "release").write_text(f"{release}\n")
        for name in ("tulle", "tulled", "tullectl"):
            (bundle / name).write_text(f"#!/bin/sh\necho {release}\n")
            (bundle / name).chmod(0o755)

    def install(self, *arguments: str, ok: bool = True) -> str:
        """Run the installer; what it said. It must succeed, or with `ok=False` fail."""
        done = subprocess.run(
            [str(self.checkout / "scripts" / "install"), "--root", str(self.root), *arguments],
            capture_output=True, text=True, timeout=60, check=False,
        )
        assert (done.returncode == 0) == ok, done.stderr
        assert done.stdout == ""
        return done.stderr

    def run(self, path: str) -> str:
        """What an installed executable says, run where it lies."""
        return subprocess.run([str(self.root / path)], capture_output=True, text=True, check=True).stdout.strip()

    def file(self, path: str, text: str = "somebody's\n") -> Path:
        """Make a file below the root, as if it had been there before us."""
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        return file

    def tree(self) -> dict[str, str]:
        """Everything below the root: folders, files with their text, links with their target."""
        return {str(each.relative_to(self.root)): contents(each) for each in sorted(self.root.rglob("*"))}


def contents(path: Path) -> str:
    if path.is_symlink():
        return f"-> {path.readlink()}"
    return path.read_bytes().hex() if path.is_file() else "folder"


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def test_each_part_is_where_runtimes_and_people_look_for_it(site: Site) -> None:
    site.install()
    assert site.run("opt/cni/bin/tulle") == "1"
    assert site.run("usr/local/bin/tullectl") == "1"
    network = json.loads((site.root / NETWORK).read_text())
    assert [each["type"] for each in network["plugins"]] == ["tulle"]


def test_other_directories_may_be_given(site: Site) -> None:
    site.install("--cni-bin-dir", "/usr/libexec/cni", "--cni-conf-dir", "/etc/other/net.d/")
    assert site.run("usr/libexec/cni/tulle") == "1"
    assert (site.root / "etc/other/net.d/10-tulle.conflist").exists()
    assert not (site.root / "opt/cni").exists()
    site.install("--uninstall")
    assert site.tree() == {}


def test_links_stay_below_the_root(site: Site) -> None:
    site.install("--names", "bridge,host-local")
    links = [each for each in site.root.rglob("*") if each.is_symlink()]
    assert len(links) == 5
    assert all(not each.readlink().is_absolute() and each.resolve().is_relative_to(site.root) for each in links)


def test_the_real_bundle_runs_where_it_lies_and_as_the_root_of_a_machine(tmp_path: Path) -> None:
    site = Site(tmp_path)
    shutil.rmtree(site.checkout / "dist")
    shutil.copytree(BUNDLE, site.checkout / "dist" / "tulle")
    site.install("--names", "host-local")
    for folder in ("usr/lib", "usr/lib64", "proc", "dev"):
        (site.root / folder).mkdir(parents=True, exist_ok=True)
    for folder in ("lib", "lib64"):
        (site.root / folder).symlink_to(f"usr/{folder}")
    in_place = subprocess.run(
        [str(site.root / "opt/cni/bin/host-local")], env={"CNI_COMMAND": "VERSION"},
        stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True,
    )
    script = (
        'cd "$0"; for each in usr/lib usr/lib64 proc dev; do mount --rbind "/$each" "$each"; done;'
        "CNI_COMMAND=VERSION exec chroot . /opt/cni/bin/host-local </dev/null"
    )
    as_root = subprocess.run(
        ["unshare", "--mount", "/bin/sh", "-ec", script, str(site.root)], capture_output=True, text=True, check=True
    )
    assert json.loads(in_place.stdout) == json.loads(as_root.stdout)
    assert "1.1.0" in json.loads(as_root.stdout)["supportedVersions"]


def test_the_network_appears_last_of_all(site: Site) -> None:
    site.file("cluster", CLUSTER)
    site.install("--cluster", str(site.root / "cluster"))
    network = (site.root / NETWORK).lstat().st_ctime_ns
    others = [each for each in site.root.rglob("*") if not each.is_dir() and each != site.root / NETWORK]
    assert all(each.lstat().st_ctime_ns <= network for each in others)


def test_a_cluster_file_is_installed_with_the_network_that_reads_it(site: Site) -> None:
    given = site.file("nodes.json", CLUSTER)
    site.install("--cluster", str(given))
    given.unlink()
    assert (site.root / "etc/tulle/cluster.json").read_text() == CLUSTER
    network = json.loads((site.root / NETWORK).read_text())
    assert network["plugins"][0]["cluster"] == "/etc/tulle/cluster.json"


def test_no_network_is_written_when_none_is_wanted(site: Site) -> None:
    site.install("--no-conf")
    assert not (site.root / "etc").exists()


def test_a_new_release_takes_over_and_the_one_before_stays_for_those_who_still_run_it(site: Site) -> None:
    for release in ("1", "2", "3", "3"):
        site.build(release)
        site.install()
        assert site.run("opt/cni/bin/tulle") == release
    kept = {each.name for each in (site.root / "opt/tulle").iterdir() if each.is_dir() and not each.is_symlink()}
    assert kept == {"2", "3"}
    assert site.run("opt/tulle/2/tulled") == "2"


def test_going_back_a_release_is_installing_it_again(site: Site) -> None:
    for release in ("1", "2", "1"):
        site.build(release)
        site.install()
    assert site.run("opt/cni/bin/tulle") == "1"
    assert site.run("opt/tulle/2/tulled") == "2"


def test_a_runtime_finds_the_plugin_at_every_instant_of_an_upgrade(site: Site) -> None:
    site.install()
    said = site.root.parent / "said"
    plugin = site.root / "opt/cni/bin/tulle"
    loop = f'until [ -e "{said}.end" ]; do "{plugin}" >>"{said}" 2>&1 || echo missing >>"{said}"; done'
    with subprocess.Popen(["/bin/sh", "-c", loop]) as runtime:
        try:
            for release in ("2", "3", "4"):
                site.build(release)
                site.install()
        finally:
            Path(f"{said}.end").touch()
            runtime.wait(PATIENCE)
    seen = said.read_text().split()
    assert {"1", "4"} <= {*seen, site.run("opt/cni/bin/tulle")}
    assert set(seen) <= {"1", "2", "3", "4"}


def test_an_edited_network_is_never_overwritten(site: Site) -> None:
    site.install()
    (site.root / NETWORK).write_text("edited\n")
    assert "left /etc/cni/net.d/10-tulle.conflist as it is" in site.install()
    assert (site.root / NETWORK).read_text() == "edited\n"


def test_an_edited_network_outlives_uninstalling_where_no_runtime_reads_it(site: Site) -> None:
    site.install()
    (site.root / NETWORK).write_text("edited\n")
    assert "10-tulle.conflist.saved" in site.install("--uninstall")
    assert site.tree().keys() == {"etc", "etc/cni", "etc/cni/net.d", f"{NETWORK}.saved"}


def test_a_network_that_was_there_before_us_is_not_ours_to_change_or_remove(site: Site) -> None:
    site.file(NETWORK)
    before = site.tree()
    site.install()
    assert (site.root / NETWORK).read_text() == "somebody's\n"
    site.install("--uninstall")
    assert site.tree() == before


def test_an_unedited_network_follows_the_release(site: Site) -> None:
    site.install()
    sample = site.checkout / "conf" / "10-tulle.conflist"
    sample.write_text(sample.read_text().replace("10.244.0.0/24", "10.245.0.0/24"))
    site.install()
    assert "10.245.0.0/24" in (site.root / NETWORK).read_text()


def test_a_network_that_runtimes_would_take_before_ours_is_pointed_out(site: Site) -> None:
    site.file("etc/cni/net.d/05-other.conf")
    site.file("etc/cni/net.d/87-later.conflist")
    said = site.install()
    assert "note: /etc/cni/net.d/05-other.conf comes before ours" in said
    assert "87-later" not in said


def test_a_reference_plugin_whose_place_we_took_comes_back(site: Site) -> None:
    site.file("opt/cni/bin/host-local", "the reference\n").chmod(0o750)
    (site.root / "opt/cni/bin/bridge").symlink_to("/usr/lib/cni/bridge")
    before = site.tree()
    for _ in range(2):
        site.install("--names", "host-local,bridge")
    assert [site.run(f"opt/cni/bin/{name}") for name in ("host-local", "bridge", "tulle")] == ["1", "1", "1"]
    site.install("--uninstall")
    assert site.tree() == before
    assert (site.root / "opt/cni/bin/host-local").stat().st_mode & 0o777 == 0o750


def test_a_plugin_that_somebody_put_in_our_place_is_left(site: Site) -> None:
    site.install("--names", "host-local")
    (site.root / "opt/cni/bin/host-local").unlink()
    site.file("opt/cni/bin/host-local", "theirs\n")
    site.install("--uninstall")
    assert (site.root / "opt/cni/bin/host-local").read_text() == "theirs\n"


@pytest.mark.parametrize("already", [(), ("etc/hosts", "opt/cni/bin/macvlan", "usr/local/bin/other", "run/other")])
def test_uninstalling_leaves_what_was_there_and_nothing_else(site: Site, already: tuple[str, ...]) -> None:
    for path in already:
        site.file(path)
    before = site.tree()
    cluster = site.root.parent / "nodes.json"
    cluster.write_text(CLUSTER)
    for release in ("1", "2"):
        site.build(release)
        site.install("--names", "bridge", "--cluster", str(cluster))
    (site.root / "run/tulle/attachments/net").mkdir(parents=True)
    site.install("--uninstall")
    expected = {**before, "run": "folder"}  # the machine's, not ours
    assert site.tree() == expected
    assert "nothing to do" in site.install("--uninstall")
    assert site.tree() == expected


def test_a_node_with_pods_is_not_left_without_its_plugin(site: Site) -> None:
    site.install()
    site.file("run/tulle/attachments/net/c1:eth0")
    said = site.install("--uninstall", ok=False)
    assert "1 pods are attached" in said and "--force" in said
    assert site.run("opt/cni/bin/tulle") == "1"
    site.install("--uninstall", "--force")
    assert [path for path in site.tree() if not path.startswith("run")] == []
    assert (site.root / "run/tulle/attachments/net/c1:eth0").exists()


@pytest.fixture
def unchanged(site: Site) -> Iterator[None]:
    before = site.tree()
    yield
    assert site.tree() == before


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--names", "portmap"], "--names portmap"),
        (["--names", "../../etc/x"], "--names ../../etc/x"),
        (["--cluster", "/nowhere/nodes.json"], "/nowhere/nodes.json"),
        (["--cluster"], "--cluster needs a value"),
        (["--cni-bin-dir", "opt/cni"], "absolute"),
        (["--cni-conf-dir", "/etc/../../x"], "absolute"),
        (["--root", "/nowhere"], "/nowhere"),
        (["--rot", "x"], "unknown argument: --rot"),
    ],
)
def test_a_mistyped_command_line_changes_nothing(site: Site, arguments: list[str], complaint: str) -> None:
    assert complaint in site.install(*arguments, ok=False)


def test_the_scripts_pass_shellcheck() -> None:
    if shutil.which("shellcheck") is None:
        pytest.skip("shellcheck is not installed")
    names = ("lib/env.sh", "lib/pack/manifest.sh", "build", "install")
    scripts = [str(REPOSITORY / "scripts" / name) for name in names]
    done = subprocess.run(["shellcheck", "-x", *scripts], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.stdout == ""


UNITS = "etc/systemd/system"


@pytest.fixture
def systemd_site(site: Site) -> Site:
    """A machine's root that has systemd, which is not running."""
    site.file("usr/lib/systemd/systemd")
    return site


def test_the_agents_units_are_installed_and_enabled_where_there_is_systemd(systemd_site: Site) -> None:
    root = systemd_site.root
    before = systemd_site.tree()
    systemd_site.install()
    for name, target in (("tulled.socket", "sockets.target"), ("tulled.service", "multi-user.target")):
        assert (root / UNITS / name).read_bytes() == (REPOSITORY / "conf" / "systemd" / name).read_bytes()
        assert (root / UNITS / f"{target}.wants" / name).resolve() == root / UNITS / name
    service = (root / UNITS / "tulled.service").read_text()
    (program,) = [line.split("=", 1)[1] for line in service.splitlines() if line.startswith("ExecStart=")]
    assert systemd_site.run(program.lstrip("/")) == "1", "what the unit starts is there"
    first = {path: each for path, each in systemd_site.tree().items() if path != "opt/tulle/manifest"}
    systemd_site.install()
    assert first.items() <= systemd_site.tree().items(), "a second time changes nothing"
    systemd_site.install("--uninstall")
    assert systemd_site.tree() == before


def test_without_systemd_or_on_request_there_is_no_agent(systemd_site: Site, tmp_path: Path) -> None:
    systemd_site.install("--no-agent")
    other = Site(tmp_path / "other")
    other.install()
    assert not (systemd_site.root / UNITS).exists() and not (other.root / UNITS).exists()
    assert systemd_site.run("opt/cni/bin/tulle") == other.run("opt/cni/bin/tulle") == "1"


def test_an_agent_that_is_not_wanted_any_more_is_taken_away(systemd_site: Site) -> None:
    before = systemd_site.tree()
    systemd_site.install()
    systemd_site.install("--no-agent")
    assert not list((systemd_site.root / UNITS).rglob("*tulled*"))
    assert systemd_site.run("opt/cni/bin/tulle") == "1"
    systemd_site.install("--uninstall")
    assert systemd_site.tree() == before


def test_a_unit_that_somebody_edited_is_kept(systemd_site: Site) -> None:
    systemd_site.install()
    unit = systemd_site.file(f"{UNITS}/tulled.service", "[Service]\nExecStart=/bin/true\n")
    systemd_site.build("2")
    assert "left /etc/systemd/system/tulled.service as it is" in systemd_site.install()
    assert unit.read_text() == "[Service]\nExecStart=/bin/true\n"
    assert systemd_site.run("opt/cni/bin/tulle") == "2"
    systemd_site.install("--uninstall")
    assert not unit.exists() and unit.with_name("tulled.service.saved").exists()
    assert not list((systemd_site.root / UNITS).rglob("*.wants/*")), "nothing of it is started at the next boot"


SETTINGS = '{"source": {"type": "file"}, "cni": {"path": "/etc/cni/net.d/10-tulle.conflist"}}'


def test_an_agent_with_a_source_writes_the_network_itself(site: Site, tmp_path: Path) -> None:
    (tmp_path / "settings.json").write_text(SETTINGS)
    site.install("--settings", str(tmp_path / "settings.json"))
    settings = site.root / "etc/tulle/agent.json"
    assert (settings.read_text(), settings.stat().st_mode & 0o777) == (SETTINGS, 0o600)
    assert not (site.root / NETWORK).exists()
    assert (site.root / "etc/cni/net.d").is_dir()
    template = json.loads((site.root / "etc/tulle/cni-conf.json").read_text())
    assert template["plugins"][0]["type"] == "tulle"


def test_what_the_agent_wrote_goes_with_the_rest(site: Site, tmp_path: Path) -> None:
    before = site.tree()
    (tmp_path / "settings.json").write_text(SETTINGS)
    site.install("--settings", str(tmp_path / "settings.json"))
    site.file(NETWORK, "what the agent wrote")
    site.install()
    assert (site.root / NETWORK).read_text() == "what the agent wrote", "an upgrade leaves the network to the agent"
    site.install("--uninstall")
    assert site.tree() == before


def test_settings_without_a_source_leave_the_network_to_the_installer(site: Site, tmp_path: Path) -> None:
    (tmp_path / "settings.json").write_text('{"metrics": "127.0.0.1:9472"}')
    site.install("--settings", str(tmp_path / "settings.json"))
    assert (site.root / NETWORK).exists()
