"""`pillion demo`: the story, that it can fail, and that nothing is left of it."""

import os
import re
import signal
import subprocess
from pathlib import Path

import pytest
from support.client import fetch
from support.process import Lines
from support.terminal import on_terminal
from support.wait import TIMEOUT, eventually

#: The story in the order of its telling; N is any number.
STORY = r"""
1  Start
   ✓ application: red 127.0.0.1:N, blue 127.0.0.1:N, and a newer one, green 127.0.0.1:N
   ✓ certificates: spiffe://demo.local/ns/default/sa/ambassador and …/sidecar
   ✓ sidecar: 127.0.0.1:N, process N, ready after N ms
   ✓ ambassador: 127.0.0.1:N, process N, ready after N ms

2  Requests
   ✓ 40 requests: red 20, blue 20, failed 0

3  An endpoint fails
   blue is stopped: its connections are cut, new ones refused.
   ✓ 40 requests: red 40, blue 0, failed 0
   blue is started again.
   ✓ one request found out after N ms
   ✓ 40 requests: red N, blue N, failed 0

4  Reload
       + backendRefs: [{ name: stable, weight: 3 }, { name: canary, weight: 1 }]
   ✓ in force after N ms, as generation 2
   ✓ 80 requests: red N, blue N, green N, failed 0
       sidecar.yaml:N:N: there is no upstream `canaries`
   ✓ generation 2 serves on: 40 requests: red N, blue N, green N, failed 0

5  Certificates
   Both get another certificate and key; both files are replaced, nobody is told:
   ✓ 40 requests: red N, blue N, green N, failed 0
   ✓ all of it over the one connection that the client opened first

6  Drain
   ✓ it is not ready any more: /readyz says 503
   ✓ the response is whole: 6 of 6 pieces
   ✓ then it exits with 0, N ms after the signal
   ✓ the ambassador, with nothing to do, exits with 0 after N ms

Done: N requests, none failed, in N s.
"""
STAYS = "All of it stays until ctrl-C."


class Demo:
    """A running demo whose temporary files go to a directory of the test's."""

    def __init__(self, binary: Path, folder: Path, *arguments: str, prefix: list[str] = (), **env: str):
        self.folder = folder
        self.process = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", "--", *prefix, binary, "demo", *arguments],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=folder,
            env=environment(folder, **env), start_new_session=True,
        )
        self.out = Lines(self.process.stdout, lambda line: line)
        self.err = Lines(self.process.stderr, lambda line: line)

    def reaches(self, text: str):
        self.out.wait_for(lambda line: text in line)

    def interrupt(self):
        """Ctrl-C: to the whole group in the foreground."""
        os.killpg(self.process.pid, signal.SIGINT)

    def ends(self) -> tuple[int, str]:
        """Exit code and output, when nothing is left."""
        code = self.process.wait(TIMEOUT)
        self.out.thread.join(TIMEOUT)
        self.err.thread.join(TIMEOUT)
        assert self.processes() == []
        assert list(self.folder.iterdir()) == []
        assert self.err.text == []
        return code, "\n".join(self.out.text) + "\n"

    def processes(self) -> list[str]:
        """The data planes that run, by their command lines, which name files in the folder."""
        found = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                line = path.read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
            except OSError:
                continue  # it has just ended
            if f"{self.folder}/" in line:
                found.append(line)
        return found


def environment(folder: Path, **more: str) -> dict[str, str]:
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(("PILLION_", "RUST_LOG", "NO_COLOR"))}
    return {**inherited, "TMPDIR": str(folder), **more}


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "demo").mkdir()
    return tmp_path / "demo"


@pytest.fixture
def demo(binary, folder):
    """`demo(arguments, ENVIRONMENT=...)` starts one."""
    started = []

    def start(*arguments, **options) -> Demo:
        started.append(Demo(binary, folder, *arguments, **options))
        return started[-1]

    yield start
    for one in started:
        one.process.kill()
        one.process.wait(TIMEOUT)
        # Its data planes end with it.
        eventually(lambda one=one: one.processes() == [], "no process left")


def test_tells_the_whole_story(demo):
    code, told = demo().ends()
    assert code == 0, told
    assert "\x1b" not in told, "no colours into a pipe"
    position = 0
    for line in filter(None, STORY.splitlines()):
        pattern = re.compile("^" + re.escape(line).replace("N", r"\d[\d.]*") + "$", re.MULTILINE)
        match = pattern.search(told, position)
        assert match, f"{line!r} is missing, or not in its place:\n{told}"
        position = match.end()


def test_both_access_logs_tell_the_same_request(demo):
    _, told = demo().ends()
    assert re.search(r"one more, as both access logs tell it by its id [\w-]{36}:\n"
                     r" +response +hello from (red|blue)\n"
                     r" +ambassador +GET /hello 200 over HTTP/1.1, from 127.0.0.1:\d+ to 127.0.0.1:\d+ in [\d.]+ ms\n"
                     r" +sidecar +GET /hello 200 over HTTP/2, "
                     r"from spiffe://demo.local/ns/default/sa/ambassador to 127.0.0.1:\d+ in [\d.]+ ms\n", told), told


def test_fails_if_a_request_does(demo):
    code, told = demo(PILLION_DEMO_BREAK="1").ends()
    assert code == 1
    failures = re.findall(r"^   ✗ request (\d+), GET /hello: 503 .*(?:connect_failed|breaker_open)", told, re.MULTILINE)
    assert [int(number) for number in failures] == list(range(42, 82)), told
    assert told.endswith("   ✗ 40 of 40 requests failed; the demo ends here\n")


@pytest.mark.parametrize("step", ["Pillion on loopback", "1  Start", "3  An endpoint fails", "5  Certificates", "6  Drain"])
def test_ctrl_c_ends_it_at_any_step(demo, step):
    running = demo()
    running.reaches(step)
    running.interrupt()
    code, told = running.ends()
    assert code == 0
    # On a machine so slow that it was done before the signal came, that is right too.
    assert "\nInterrupted." in told or "\nDone: " in told


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_other_signals_end_it_too(demo, number):
    running = demo()
    running.reaches("2  Requests")
    running.process.send_signal(number)
    assert running.ends()[0] == 0


def test_no_process_outlives_it_even_when_it_is_killed(demo):
    running = demo("--stay")
    running.reaches(STAYS)
    assert len(running.processes()) == 2
    running.process.kill()
    eventually(lambda: running.processes() == [], "both data planes ended")


def test_stays_until_ctrl_c(demo):
    running = demo("--stay")
    running.reaches(STAYS)
    running.reaches("  edit ")
    told = "\n".join(running.out.text)
    for address, path in re.findall(r"^  curl http://([\d.:]+)(/\w+)$", told, re.MULTILINE):
        assert fetch(address, "GET", path, {"Host": address}).status == 200
    hello = re.search(r"curl http://([\d.:]+)/hello", told)[1]
    file = Path(re.search(r"^  edit (.+)$", told, re.MULTILINE)[1])
    assert file.parent.stat().st_mode & 0o777 == 0o700
    file.write_text(re.sub(r"backendRefs: .*", "backendRefs: [{ name: canary, weight: 1 }]", file.read_text()))
    eventually(lambda: all(fetch(hello, "GET", "/hello", {"Host": "any"}).body == b"hello from green\n" for _ in range(8)),
               "the edited file is live")
    running.interrupt()
    code, told = running.ends()
    assert code == 0
    assert "\n6  Drain\n" in told and "\nDone: " in told


def test_what_it_says_to_try_next_works(demo, binary, tmp_path):
    code, told = demo().ends()
    commands = [line.split("    #")[0].strip() for line in told.partition("Try next:\n")[2].splitlines() if line.strip()]
    here = tmp_path / "next"
    here.mkdir()
    done = []
    for command in commands:
        # With a loopback of its own, so that every port is free.
        process = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", "--", "unshare", "--net", "bash", "-euc",
             f"ip link set lo up; {command if command.startswith('echo') else 'exec ' + command}"],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=here,
            env=environment(here, PILLION_LOG_FORMAT="json"),
        )
        out, err = (Lines(stream, lambda line: line) for stream in (process.stdout, process.stderr))
        verb = command.split()[1] if command.startswith(str(binary)) else "echo"
        if verb == "run":
            err.wait_for(lambda line: '"ready"' in line)
            process.send_signal(signal.SIGINT)
        elif verb == "demo":
            out.wait_for(lambda line: STAYS in line)
            process.send_signal(signal.SIGINT)
        assert process.wait(TIMEOUT) == 0, f"{command}\n{out.text}\n{err.text}"
        done.append(verb)
    assert done == ["demo", "echo", "echo", "check", "run"]


def test_two_at_once(demo):
    first, second = demo("--stay"), demo("--stay")
    for running in (first, second):
        running.reaches(STAYS)
    for running in (first, second):
        running.interrupt()
        assert running.process.wait(TIMEOUT) == 0
    second.ends()


def test_settings_of_the_surroundings_do_not_change_it(demo):
    code, told = demo(RUST_LOG="off", PILLION_LOG_FORMAT="text", PILLION_WORKERS="none", PILLION_CONFIG="nowhere",
                      OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:1").ends()
    assert code == 0, told


def test_a_reader_that_leaves_does_not_stop_it(binary, folder):
    process = subprocess.Popen([binary, "demo"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment(folder))
    assert process.stdout.readline()
    process.stdout.close()
    assert process.wait(TIMEOUT) == 0
    assert process.stderr.read() == b""
    process.stderr.close()
    assert list(folder.iterdir()) == []


def test_says_where_it_cannot_put_its_files(binary, folder):
    done = subprocess.run([binary, "demo"], capture_output=True, text=True, env=environment(folder / "none"))
    assert done.returncode == 1
    assert f"cannot make {folder}/none/pillion-demo-" in done.stdout


@pytest.mark.parametrize("env, coloured", [({}, True), ({"NO_COLOR": ""}, True), ({"NO_COLOR": "1"}, False)])
def test_colours_on_a_terminal(binary, folder, env, coloured):
    code, told = on_terminal(binary, "demo", env=environment(folder, **env))
    assert code == 0
    assert ("\x1b[32m✓" in told) == ("\x1b" in told) == coloured
