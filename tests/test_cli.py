"""The command line as a newcomer meets it: help, exit codes, messages."""

import os
import re
import socket
import subprocess
from pathlib import Path

import jsonschema
import pytest
import yaml
from conftest import ROOT
from support.process import Pillion
from support.terminal import on_terminal
from support.wait import TIMEOUT

CONFIGURATIONS = sorted((ROOT / "config").rglob("*.yaml"))

GOOD = """\
admin: { address: 127.0.0.1:0 }
listeners: [{ name: web, address: 127.0.0.1:0, upstream: app }]
upstreams: [{ name: app, endpoints: [127.0.0.1:9000] }]
"""
#: Four mistakes on three lines; two of them have a hint.
BAD = """\
admin: { adress: 127.0.0.1:0 }
listeners: [{ name: web, address: 127.0.0.1:0, upstream: ap }]
upstreams: [{ name: app, endpoints: [127.0.0.1:99999], timeouts: { connect: 1 hour } }]
"""
PLACE = re.compile(r"^(?P<file>[^ ].*?):(?P<line>\d+):(?P<column>\d+): (?P<message>.+)$", re.MULTILINE)


@pytest.fixture
def cli(binary, tmp_path):
    """`cli(arguments, ENVIRONMENT=...)` runs a command in an empty directory."""
    def run(*arguments: str | Path, **env: str) -> subprocess.CompletedProcess:
        return subprocess.run([binary, *arguments], cwd=tmp_path, stdin=subprocess.DEVNULL, capture_output=True,
                              text=True, timeout=TIMEOUT, env={**environment(), **env})
    return run


def environment() -> dict[str, str]:
    return {key: value for key, value in os.environ.items() if not key.startswith(("PILLION_", "RUST_LOG", "NO_COLOR"))}


@pytest.fixture
def written(tmp_path):
    """`written(text)` is the name of a file with it, in the directory where commands run."""
    def write(text: str, name: str = "pillion.yaml") -> str:
        (tmp_path / name).write_text(text)
        return name
    return write


# Help.

def test_help_names_every_command_and_what_to_do_first(cli):
    done = cli("--help")
    assert done.returncode == 0 and done.stderr == ""
    commands = re.findall(r"^  ([\w-]+) {2,}\S", done.stdout.partition("Commands:\n")[2].partition("\n\n")[0], re.MULTILINE)
    assert commands == ["run", "check", "schema", "demo", "dev-ca", "help"]
    assert "First steps:\n  pillion demo" in done.stdout
    assert "Exit codes" in done.stdout
    assert cli("-h").stdout == done.stdout


def test_the_shortest_file_of_the_help_is_good(cli, written):
    text = cli("--help").stdout.partition("on port 9000:\n")[2].partition("\n\n")[0]
    assert cli("check", written(re.sub(r"^  ", "", text, flags=re.MULTILINE) + "\n")).returncode == 0


@pytest.mark.parametrize("command", ["run", "check", "schema", "demo", "dev-ca"])
def test_help_of_a_command(cli, command):
    done = cli(command, "--help")
    assert done.returncode == 0 and done.stderr == ""
    assert f"Usage: pillion {command}" in done.stdout
    assert all(len(line) <= 100 for line in done.stdout.splitlines())


def test_help_of_run_tells_of_signals_exit_codes_and_environment(cli):
    text = cli("run", "--help").stdout
    for word in ("SIGTERM", "SIGHUP", "POST /reload", "standard error", "Exits with 1",
                 "PILLION_CONFIG", "PILLION_WORKERS", "PILLION_LOG_FORMAT", "OTEL_", "RUST_LOG", "NO_COLOR"):
        assert word in text
    assert "end-with-parent" not in text, "that one is the demo's"


def test_version_tells_commit_tls_provider_and_features(cli):
    done = cli("--version")
    assert done.returncode == 0
    assert re.fullmatch(r"pillion \d+\.\d+\.\d+ \(commit ([0-9a-f]{12}|unknown)\)\n"
                        r"tls: rustls with aws-lc-rs; .+\nfeatures: .+ mtls .+\n", done.stdout)
    assert cli("-V").stdout == done.stdout


# Wrong usage.

@pytest.mark.parametrize("arguments", [
    [], ["fly"], ["--fast"], ["run"], ["run", "a.yaml"], ["run", "--config"], ["check"], ["check", "a", "b"],
    ["schema", "x"], ["demo", "x"], ["demo", "--for", "ever"],
])
def test_wrong_usage_is_2_with_a_hint_on_standard_error(cli, arguments):
    done = cli(*arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    assert "--help" in done.stderr or "Usage: pillion" in done.stderr


def test_a_misspelt_command_is_told_what_it_may_mean(cli):
    assert "'check'" in cli("chek", "x").stderr


# Check.

def test_check_of_a_good_file(cli, written):
    done = cli("check", written(GOOD))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "pillion.yaml: good (listeners: 1, routes: 0, upstreams: 1)\n"


def test_check_prints_every_problem_with_its_place(cli, written):
    done = cli("check", written(BAD))
    assert (done.returncode, done.stderr) == (1, "")
    lines = done.stdout.splitlines()
    places = [(match["file"], int(match["line"]), int(match["column"])) for match in PLACE.finditer(done.stdout)]
    columns = {mark: BAD.splitlines()[line - 1].index(mark) + 1
               for line, mark in ((1, "adress"), (2, "ap }"), (3, "127.0.0.1:99999"), (3, "1 hour"))}
    assert places == [("pillion.yaml", 1, columns["adress"]), ("pillion.yaml", 2, columns["ap }"]),
                      ("pillion.yaml", 3, columns["127.0.0.1:99999"]), ("pillion.yaml", 3, columns["1 hour"])]
    for text in BAD.splitlines():
        assert any(line.endswith(f"| {text}") for line in lines), f"the line is shown: {text}"
    assert "  hint: did you mean `address`?" in lines
    assert "  hint: did you mean `app`?" in lines
    assert lines[-1] == "4 problems"


def test_check_of_a_folder_names_the_file_of_each_problem(cli, tmp_path):
    (tmp_path / "conf").mkdir()
    listeners, upstreams = BAD.splitlines()[1:]
    (tmp_path / "conf/a.yaml").write_text(listeners)
    (tmp_path / "conf/b.yaml").write_text(upstreams)
    done = cli("check", "conf")
    assert done.returncode == 1
    assert [match["file"] for match in PLACE.finditer(done.stdout)] == ["conf/a.yaml", "conf/b.yaml", "conf/b.yaml"]


@pytest.mark.parametrize("command", [["check"], ["run", "--config"]])
@pytest.mark.parametrize("name", ["missing.yaml", "empty-folder"])
def test_what_cannot_be_read_is_2(cli, tmp_path, command, name):
    (tmp_path / "empty-folder").mkdir()
    done = cli(*command, name)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines()[-1].startswith(f"pillion: cannot read {name}: ")


@pytest.mark.parametrize("path", CONFIGURATIONS, ids=lambda path: path.stem)
def test_the_configurations_here_are_good(cli, path):
    done = cli("check", path, PILLION_PKI="pki")
    assert done.returncode == 0, done.stdout


# Colours.

@pytest.mark.parametrize("env, coloured", [({}, True), ({"NO_COLOR": ""}, True), ({"NO_COLOR": "1"}, False)])
@pytest.mark.parametrize("command", [["check"], ["run", "--config"]])
def test_colours_only_on_a_terminal_and_without_no_color(cli, binary, tmp_path, written, command, env, coloured):
    name = written(BAD)
    code, text = on_terminal(binary, *command, tmp_path / name, env={**environment(), **env})
    assert code == 1
    assert ("\x1b[" in text) == coloured
    done = cli(*command, name, **env)
    assert "\x1b" not in done.stdout + done.stderr


# Run.

def test_run_tells_of_a_bad_configuration_as_check_does(cli, written):
    name = written(BAD)
    done = cli("run", "--config", name)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == cli("check", name).stdout + "pillion: not started\n"


@pytest.mark.parametrize("key, who", [("web", "listener web"), ("admin", "admin server")])
def test_run_tells_who_wants_a_port_that_is_taken(cli, written, key, who):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        before, after = {
            "web": ("web, address: 127.0.0.1:0", f"web, address: {address}"),
            "admin": ("admin: { address: 127.0.0.1:0", f"admin: {{ address: {address}"),
        }[key]
        done = cli("run", "--config", written(GOOD.replace(before, after)))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"pillion: {who}: cannot listen on {address}: Address already in use")
    assert "stop it or take another address" in done.stderr


def test_run_tells_of_an_address_that_is_not_here(cli, written):
    done = cli("run", "--config", written(GOOD.replace("web, address: 127.0.0.1:0", "web, address: 192.0.2.1:8080")))
    assert done.returncode == 1
    assert "this machine has no such address" in done.stderr


def test_run_refuses_a_number_of_workers_that_is_none(cli, written):
    done = cli("run", "--config", written(GOOD), PILLION_WORKERS="many")
    assert done.returncode == 1
    assert "PILLION_WORKERS" in done.stderr


def test_run_takes_the_file_from_the_environment(cli):
    done = cli("run", PILLION_CONFIG="elsewhere.yaml")
    assert done.returncode == 2
    assert "elsewhere.yaml" in done.stderr


def test_run_ends_with_the_parent_that_it_is_told_of(binary, tmp_path):
    # Told of a parent that is none, it does not even start.
    (tmp_path / "pillion.yaml").write_text(GOOD)
    done = subprocess.run([binary, "run", "--config", "pillion.yaml", "--end-with-parent", "1"], cwd=tmp_path,
                          capture_output=True, text=True, timeout=TIMEOUT, env=environment())
    assert done.returncode == 1


@pytest.mark.parametrize("path", CONFIGURATIONS, ids=lambda path: path.stem)
def test_the_configurations_here_start(binary, tmp_path, path):
    # With a loopback of its own, so that every port is free.
    prefix = ["unshare", "--net", "sh", "-euc", 'ip link set lo up; exec "$@"', "alone"]
    subprocess.run([binary, "dev-ca", "--out", tmp_path / "pki", "--trust-domain", "bench.local", "client", "server"],
                   check=True, stdout=subprocess.DEVNULL)
    with Pillion(binary, tmp_path, None, config_path=path, prefix=prefix, env={"PILLION_PKI": str(tmp_path / "pki")}):
        pass


# Schema.

@pytest.fixture(scope="module")
def schema(binary) -> dict:
    done = subprocess.run([binary, "schema"], check=True, capture_output=True, text=True)
    return yaml.safe_load(done.stdout)


def test_schema_is_one(schema):
    jsonschema.Draft202012Validator.check_schema(schema)
    assert schema["$schema"].endswith("draft/2020-12/schema")


@pytest.mark.parametrize("path", CONFIGURATIONS, ids=lambda path: path.stem)
def test_schema_accepts_the_configurations_here(schema, path):
    jsonschema.validate(yaml.safe_load(path.read_text()), schema, jsonschema.Draft202012Validator)


@pytest.mark.parametrize("text", ["listner: []", "listeners: {}", "listeners: [{ adress: 1 }]", "drain: { deadline: [] }"])
def test_schema_refuses_what_check_refuses(cli, written, schema, text):
    assert not jsonschema.Draft202012Validator(schema).is_valid(yaml.safe_load(text))
    assert cli("check", written(text)).returncode == 1


def test_schema_describes_every_key(schema):
    silent = []

    def visit(value, path):
        if isinstance(value, dict):
            for key, property in value.get("properties", {}).items():
                if isinstance(property, dict) and not property.get("description"):
                    silent.append(f"{path}.{key}")
            for key, inner in value.items():
                visit(inner, f"{path}.{key}")
        elif isinstance(value, list):
            for inner in value:
                visit(inner, path)

    visit(schema, "")
    assert silent == []


@pytest.mark.parametrize("arguments", [["schema"], ["--help"], ["demo", "--help"]])
def test_a_reader_that_leaves_is_no_reason_to_panic(binary, arguments):
    process = subprocess.Popen([binary, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment())
    process.stdout.close()
    assert process.wait(TIMEOUT) in (0, 1)
    assert b"panicked" not in process.stderr.read()
    process.stderr.close()
