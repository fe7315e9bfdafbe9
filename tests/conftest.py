"""Fixtures of the end-to-end tests. Everything runs against the real binary, on loopback."""

import contextlib
import fcntl
import json
import os
import subprocess
import tempfile
from pathlib import Path

import pytest
from support.client import RawClient
from support.moody import Moody
from support.process import Pillion
from support.tls import Pki
from support.upstream import EchoUpstream, RawUpstream

ROOT = Path(__file__).resolve().parent.parent


def cargo_target() -> Path:
    metadata = subprocess.run(
        ["cargo", "metadata", "--format-version", "1", "--no-deps", "--locked"],
        cwd=ROOT, check=True, capture_output=True,
    )
    return Path(json.loads(metadata.stdout)["target_directory"])


@pytest.fixture(scope="session")
def binary() -> Path:
    """`PILLION_BIN`, or the debug binary of this tree, built once however many workers ask."""
    if given := os.environ.get("PILLION_BIN"):
        return Path(given).resolve()
    target = cargo_target()
    target.mkdir(parents=True, exist_ok=True)
    with open(target / ".pytest-build.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        subprocess.run(["cargo", "build", "--locked", "--bin", "pillion"], cwd=ROOT, check=True)
    return target / "debug" / "pillion"


@pytest.fixture
def pillion(binary, tmp_path):
    """`pillion(config, env=..., files=..., prefix=...)` starts a proxy and waits until it is ready."""
    with contextlib.ExitStack() as stack:
        count = 0

        def start(config, **options) -> Pillion:
            nonlocal count
            directory = tmp_path / f"pillion-{count}"
            directory.mkdir()
            count += 1
            return stack.enter_context(Pillion(binary, directory, config, **options))

        yield start


@pytest.fixture(scope="module")
def shared_pillion(binary, tmp_path_factory):
    """The same for tests of one module that only look and never change it."""
    with contextlib.ExitStack() as stack:

        def start(config, **options) -> Pillion:
            directory = tmp_path_factory.mktemp("pillion")
            return stack.enter_context(Pillion(binary, directory, config, **options))

        yield start


@pytest.fixture
def echo():
    """An upstream that tells what it was sent."""
    with EchoUpstream() as upstream:
        yield upstream


@pytest.fixture(scope="module")
def shared_echo():
    """The same for tests of one module that share a proxy too."""
    with EchoUpstream() as upstream:
        yield upstream


@pytest.fixture
def echo_upstream():
    """`echo_upstream(name)` for tests that need several."""
    with contextlib.ExitStack() as stack:
        yield lambda name="app", **options: stack.enter_context(EchoUpstream(name, **options))


@pytest.fixture
def raw_upstream():
    """`raw_upstream(script)`: an upstream that follows a script byte by byte."""
    with contextlib.ExitStack() as stack:
        yield lambda script=None, **options: stack.enter_context(RawUpstream(script, **options))


@pytest.fixture
def moody():
    """`moody(status)`: an upstream that is well or not, as a test wishes."""
    with contextlib.ExitStack() as stack:
        yield lambda mood=200, **options: stack.enter_context(Moody(mood, **options))


@pytest.fixture
def connect():
    """`connect(address)`: a raw client connection, closed at the end of the test."""
    with contextlib.ExitStack() as stack:
        yield lambda address, **options: stack.enter_context(RawClient(address, **options))


@pytest.fixture
def short_dir():
    """A directory with a path short enough for a Unix socket."""
    with tempfile.TemporaryDirectory(prefix="p") as directory:
        yield Path(directory)


@pytest.fixture
def pki(tmp_path):
    """An authority, and certificates from it as files."""
    return Pki(tmp_path / "pki")


@pytest.fixture
def other_pki(tmp_path):
    """Another authority, which nobody trusts unless told to."""
    return Pki(tmp_path / "other-pki", "another authority")
