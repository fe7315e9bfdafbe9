"""The image, the manifests and the unit: what people deploy, without an engine or a cluster."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from conftest import ROOT
from support.client import fetch
from support.process import Pillion

DEPLOY = ROOT / "deploy"
MANIFESTS = sorted((DEPLOY / "kubernetes").glob("*.yaml"))
CONFIG_PATH = "/etc/pillion/pillion.yaml"

# The root as an engine gives it: read-only, with /proc and nothing else mounted.
ENTER = """
root=$1 user=$2; shift 2
mount --bind "$root" "$root" && mount -o remount,bind,ro "$root" && mount -t proc proc "$root/proc"
exec chroot --userspec="$user" --groups= "$root" "$@"
"""


def dockerfile() -> list[tuple[str, str]]:
    """Its instructions in order: (name, rest)."""
    text = re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    return [tuple(line.split(maxsplit=1)) for line in text.splitlines() if line.strip()]


def last(instruction: str) -> str:
    return [rest for name, rest in dockerfile() if name == instruction][-1]


@pytest.fixture
def image(binary, tmp_path) -> Path:
    """The root of the image, made by the steps of the Dockerfile around a program already built."""
    root = tmp_path / "rootfs"
    build, final = [], []
    for instruction in dockerfile():
        if instruction[0] == "FROM":
            build, final = build + final, []
        final.append(instruction)
    assert final[0] == ("FROM", "scratch")
    assert [rest for name, rest in final if name in ("COPY", "ADD")] == ["--from=build /rootfs/ /"]
    assert [name for name, _ in final if name == "RUN"] == []
    *_, compiles, lays_out = [shlex.split(rest) for name, rest in build if name == "RUN"]
    assert compiles == ["cargo", "build", "--locked", "--release"]
    assert lays_out == ["deploy/image/rootfs", "target/release/pillion", "/rootfs"]
    subprocess.run([lays_out[0], binary, root], cwd=ROOT, check=True)
    # What the test brings in place of the engine's mounts.
    (root / "proc").mkdir()
    (root / CONFIG_PATH[1:]).write_text(yaml.safe_dump({
        "admin": {"address": "127.0.0.1:0", "probes": "0.0.0.0:0"},
        "listeners": [{"name": "web", "address": "127.0.0.1:0"}],
        "routes": [{"rules": [{"filters": [{
            "type": "DirectResponse", "directResponse": {"statusCode": 200, "body": "from the image"},
        }]}]}],
    }))
    for path in root.rglob("*"):
        if not path.is_symlink():
            path.chmod(path.stat().st_mode | 0o444)
    tmp_path.chmod(0o755)
    return root


def enter(image: Path) -> list[str]:
    return ["unshare", "--mount", "sh", "-euc", ENTER, "enter", str(image), last("USER")]


def test_image_is_small_and_has_one_user(image):
    files = {str(path.relative_to(image)) for path in image.rglob("*") if path.is_file()}
    others = {name for name in files if not re.search(r"/lib[^/]*\.so[.\d]*$|/ld-linux[^/]*$", name)}
    assert others == {"usr/bin/pillion", "etc/passwd", "etc/group", CONFIG_PATH[1:]}
    user, _, group = last("USER").partition(":")
    assert user.isdigit() and int(user) != 0 and group.isdigit()
    assert f":{user}:{group}:" in (image / "etc/passwd").read_text()


def test_image_runs_as_its_user_on_a_read_only_root(image, tmp_path):
    entrypoint, command = json.loads(last("ENTRYPOINT")), json.loads(last("CMD"))
    assert command == ["run", "--config", CONFIG_PATH]
    version = subprocess.run([*enter(image), *entrypoint, "--version"], check=True, capture_output=True, text=True)
    assert version.stdout.startswith("pillion ")

    directory = tmp_path / "outside"
    directory.mkdir()
    with Pillion(Path(entrypoint[0]), directory, None, prefix=enter(image), config_path=Path(CONFIG_PATH)) as pillion:
        status = Path(f"/proc/{pillion.pid}/status").read_text()
        user = last("USER").split(":")[0]
        assert re.search(r"^Uid:\s+(.*)$", status, re.MULTILINE)[1].split() == [user] * 4
        assert fetch(pillion.probes.replace("0.0.0.0", "127.0.0.1"), target="/readyz").status == 200
        assert fetch(pillion.admin, target="/livez").status == 200
        assert fetch(pillion.address(), target="/").body == b"from the image"


def test_image_is_built_from_what_the_build_needs():
    admitted = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert {"Cargo.toml", "Cargo.lock", "src", "deploy/image"} <= admitted
    # Files that the compiler includes from outside src must come along.
    for source in (ROOT / "src").rglob("*.rs"):
        program, *_ = source.read_text().partition("#[cfg(test)]")
        for name in re.findall(r'include_(?:str|bytes)!\(\s*"([^"]+)"', program):
            included = (source.parent / name).resolve().relative_to(ROOT)
            assert any(included.is_relative_to(path) for path in admitted), f"{source} includes {included}"


def test_toolchain_of_the_image_is_new_enough():
    tag = re.match(r"rust:(\d+)\.(\d+)-", dockerfile()[0][1])
    wanted = re.search(r'^rust-version = "(\d+)\.(\d+)', (ROOT / "Cargo.toml").read_text(), re.MULTILINE)
    assert tuple(map(int, tag.groups())) >= tuple(map(int, wanted.groups()))


@pytest.mark.parametrize("manifest", MANIFESTS, ids=lambda path: path.stem)
@pytest.mark.parametrize("version", ["1.30", "1.37"])
def test_manifest_is_valid(manifest, version):
    validate = Path(sys.executable).with_name("kubernetes-validate")
    subprocess.run([validate, "--strict", "-k", version, manifest], check=True)


@pytest.mark.parametrize("manifest", MANIFESTS, ids=lambda path: path.stem)
def test_configuration_in_a_manifest_is_good_and_agrees_with_it(manifest, binary, tmp_path):
    objects = list(yaml.safe_load_all(manifest.read_text()))
    maps = {item["metadata"]["name"]: item["data"] for item in objects if item["kind"] == "ConfigMap"}
    assert maps
    for name, files in maps.items():
        for file, text in files.items():
            (tmp_path / file).write_text(text)
            checked = subprocess.run([binary, "check", tmp_path / file], capture_output=True, text=True)
            assert checked.returncode == 0, f"{name}/{file}: {checked.stdout}{checked.stderr}"

    pods = [item["spec"] if item["kind"] == "Pod" else item["spec"]["template"]["spec"]
            for item in objects if item["kind"] in ("Pod", "Deployment")]
    assert pods
    for pod in pods:
        containers = [*pod.get("initContainers", []), *pod["containers"]]
        container, = [each for each in containers if each["name"] == "pillion"]
        volumes = {volume["name"]: volume["configMap"]["name"] for volume in pod["volumes"] if "configMap" in volume}
        mount, = container["volumeMounts"]
        assert container["args"] == json.loads(last("CMD")) and Path(mount["mountPath"]) == Path(CONFIG_PATH).parent
        assert "subPath" not in mount and "subPathExpr" not in mount
        config = yaml.safe_load(maps[volumes[mount["name"]]][Path(CONFIG_PATH).name])

        ports = {port["name"]: port["containerPort"] for port in container["ports"]}
        assert config["admin"]["probes"] == f"0.0.0.0:{ports['probes']}"
        assert f"0.0.0.0:{ports['http']}" in [listener["address"] for listener in config["listeners"]]
        paths = {probe: container[f"{probe}Probe"]["httpGet"]["path"] for probe in ("startup", "readiness", "liveness")}
        assert paths == {"startup": "/readyz", "readiness": "/readyz", "liveness": "/livez"}
        assert config["drain"]["delay"] == "5s"
        assert pod["terminationGracePeriodSeconds"] > int(config["drain"]["deadline"].removesuffix("s"))

        security = {**pod["securityContext"], **container["securityContext"]}
        assert security["runAsNonRoot"] and security["readOnlyRootFilesystem"]
        assert f"{security['runAsUser']}:{security['runAsGroup']}" == last("USER")
        assert security["capabilities"] == {"drop": ["ALL"]} and not security["allowPrivilegeEscalation"]
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}


def test_unit_is_accepted_by_systemd_and_hardened(binary, tmp_path):
    text = (DEPLOY / "systemd/pillion.service").read_text()
    unit = tmp_path / "pillion.service"
    unit.write_text(text.replace("/usr/bin/pillion", str(binary)))
    verified = subprocess.run(["systemd-analyze", "verify", "--man=no", unit], capture_output=True, text=True)
    assert (verified.returncode, verified.stdout + verified.stderr) == (0, "")
    # Exposure in tenths, 100 is none of it: a plain service has 96.
    subprocess.run(["systemd-analyze", "security", "--offline=true", "--threshold=20", unit], check=True,
                   stdout=subprocess.DEVNULL)
