"""What the documents tell people to type, typed.

A fenced block of `yaml` after `<!-- file: NAME -->` is written to NAME and checked; one without is a
fragment, and is checked with the shortest rest. Blocks of `sh` run as one script, in order, in that
directory, on a loopback of their own. `sh` after `<!-- make -->` names targets of the Makefile;
those are compared, not run: they run this test.
"""

import re
import subprocess
from pathlib import Path

import pytest
from conftest import ROOT

BLOCK = re.compile(r"(?:^<!-- (?P<mark>[\w]+)(?:: (?P<name>[\w.-]+))? -->\n)?^```(?P<language>\w+)\n(?P<text>.*?)^```$",
                   re.MULTILINE | re.DOTALL)
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md", *sorted((ROOT / "docs").glob("*.md"))]

#: What a fragment leaves out.
REST = {
    "listeners": "listeners: [{ address: 127.0.0.1:8080, upstream: app }]\n",
    "upstreams": "upstreams: [{ name: app, endpoints: [127.0.0.1:9000] }]\n",
}

# Servers are started in the background: the first request to one waits for it.
CURLRC = "fail\nsilent\nshow-error\nretry-connrefused\nretry = 10\nretry-max-time = 30\n"
ISOLATED = ["unshare", "--net", "--pid", "--fork", "--kill-child", "--mount-proc", "bash", "-euc",
            "ip link set lo up; . ./script"]


def blocks(document: Path, language: str) -> list[re.Match]:
    return [block for block in BLOCK.finditer(document.read_text()) if block["language"] == language]


def makefile_targets() -> set[str]:
    return set(re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE))


@pytest.fixture
def files(tmp_path):
    """Writes a document's files into a directory."""
    def write(document: Path) -> dict[str, Path]:
        written = {}
        for number, block in enumerate(blocks(document, "yaml")):
            name, text = block["name"], block["text"]
            if block["mark"] != "file":
                name = f"fragment-{number}.yaml"
                text += "".join(rest for key, rest in REST.items() if not re.search(rf"^{key}:", text, re.MULTILINE))
            written[name] = tmp_path / name
            written[name].write_text(text)
        return written
    return write


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.stem)
def test_make_targets_exist(document):
    lines = [line for block in blocks(document, "sh") if block["mark"] == "make"
             for line in block["text"].splitlines()]
    named = [re.fullmatch(r"make ([a-z-]+)(?: +#.*)?", line) for line in lines]
    assert all(named), lines
    assert {match[1] for match in named} <= makefile_targets()


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.stem)
def test_configurations_are_good(document, files, binary):
    for path in files(document).values():
        checked = subprocess.run([binary, "check", path], capture_output=True, text=True)
        assert checked.returncode == 0, checked.stdout + checked.stderr


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.stem)
def test_commands_work(document, files, binary, tmp_path):
    files(document)
    script = "".join(block["text"] for block in blocks(document, "sh") if block["mark"] is None)
    (tmp_path / "script").write_text(script)
    (tmp_path / ".curlrc").write_text(CURLRC)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/pillion").symlink_to(binary)
    done = subprocess.run(
        ISOLATED, cwd=tmp_path, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=50,
        env={"PATH": f"{tmp_path}/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
             "CURL_HOME": str(tmp_path), "HOME": str(tmp_path), "LANG": "C.UTF-8"},
    )
    assert done.returncode == 0, f"{script}\n{done.stdout}\n{done.stderr}"


def test_the_readme_shows_the_two_commands():
    first = blocks(ROOT / "README.md", "sh")[0]
    assert [line.split("#")[0].strip() for line in first["text"].splitlines()] == ["make demo", "make test"]
