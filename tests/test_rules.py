"""Rules of the repository that no compiler checks."""

import re
import subprocess
import tomllib

import pytest
from conftest import ROOT

CARGO_TOML = tomllib.loads((ROOT / "Cargo.toml").read_text())
#: Everything that brings its own TLS or cryptography; aws-lc-rs is the one that may be here.
OTHER_PROVIDERS = {"ring", "openssl", "openssl-sys", "native-tls", "boring", "boring-sys", "mbedtls", "wolfssl"}
MACHINE_PATH = re.compile(r"(?<![\w.~*-])/(work|root|tmp|home)/")
REGISTRY = re.compile(r"\b((static|index)\.crates\.io|pypi\.org|pythonhosted\.(org)|(deb|security)\.debian\.org|npmjs\.(org)"
                      r"|docker\.(io)|(gc|quay|ghcr|k8s)\.(io)|registry\.[a-z0-9-]+\.[a-z]+)\b")


def run(*command: str) -> str:
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout


def tracked() -> dict[str, str]:
    """Every text file in git, by name."""
    texts = {}
    for name in run("git", "ls-files", "-z").split("\0"):
        if name and (path := ROOT / name).is_file():
            data = path.read_bytes()
            if b"\0" not in data:
                texts[name] = data.decode()
    return texts


def found(pattern: re.Pattern, texts: dict[str, str]) -> list[str]:
    return [f"{name}:{number}: {line.strip()}" for name, text in texts.items()
            for number, line in enumerate(text.splitlines(), 1) if pattern.search(line)]


def test_at_most_one_tls_provider():
    tree = run("cargo", "tree", "--locked", "--target", "all", "--edges", "normal,build", "--all-features",
               "--prefix", "none", "--format", "{p}")
    crates = {line.split()[0] for line in tree.splitlines() if line}
    assert "tokio" in crates
    assert not crates & OTHER_PROVIDERS


def test_unsafe_is_allowed_in_one_file_only():
    assert CARGO_TOML["lints"]["rust"]["unsafe_code"] == "deny"
    sources = {name: text for name, text in tracked().items() if name.endswith(".rs") and name != "src/sys.rs"}
    assert found(re.compile(r"\bunsafe_code\b"), sources) == []


def test_no_file_names_this_machine_or_a_registry():
    texts = tracked()
    texts.pop("Cargo.lock")  # written by cargo
    assert found(MACHINE_PATH, texts) + found(REGISTRY, texts) == []


def test_every_dependency_says_why_it_is_here():
    rows = re.findall(r"^\| `([\w-]+)` \| (.+) \|$", (ROOT / "docs/dependencies.md").read_text(), re.MULTILINE)
    explained = [name for name, _ in rows]
    declared = {name for table in ("dependencies", "dev-dependencies", "build-dependencies")
                for name in CARGO_TOML.get(table, {})}
    assert sorted(explained) == sorted(declared)


def test_every_dependency_is_used():
    sources = "\n".join(text for name, text in tracked().items() if name.endswith(".rs"))
    unused = [name for name in {**CARGO_TOML["dependencies"], **CARGO_TOML["dev-dependencies"]}
              if not re.search(rf"\b{name.replace('-', '_')}::", sources)]
    assert unused == []


def test_timeouts_are_those_of_the_reference():
    sections = re.split(r"^## `?([^`\n]+)`?$", (ROOT / "docs/configuration.md").read_text(), flags=re.MULTILINE)
    reference = {f"{section}.{key}": default
                 for section, text in zip(sections[1::2], sections[2::2])
                 for key, default in re.findall(r"^\| `(\w+)` \|[^|]*\| `([^`]+)` \|", text, re.MULTILINE)}
    told = {key: default for default, key in
            re.findall(r"\| `([^`]+)` \| `([^`]+)` \|$", (ROOT / "docs/timeouts.md").read_text(), re.MULTILINE)}
    assert told == {key: reference.get(key) for key in told}
    # None is left out.
    limits = re.compile(r"[tT]imeout|^drain|Ttl|limits|\.max[A-Z]|\.backoff|ejection\.window|\.interval|^otlp\.batch")
    assert sorted(told) == sorted(key for key in reference if limits.search(key))


@pytest.mark.parametrize("name", [name for name in tracked() if name.endswith(".md")])
def test_links_between_documents_lead_somewhere(name):
    targets = re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", (ROOT / name).read_text())
    missing = [target for target in targets if not ((ROOT / name).parent / target).exists()]
    assert missing == []
