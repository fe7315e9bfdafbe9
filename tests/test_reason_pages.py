"""The page of each reason says what is so: its codes, the keys, the links. (Its queries: test_monitoring.py.)"""

import re

import pytest
from conftest import ROOT

TABLE = ROOT / "docs/reasons.md"
PAGES = {path.stem: path.read_text() for path in sorted((ROOT / "docs/reasons").glob("*.md"))}
SECTIONS = ["What happened", "Who is to blame", "What to look at", "What to change", "Sent again"]

#: name -> (HTTP, gRPC, Proxy-Status, flag, sent again)
REASONS = {name: tuple(rest) for name, *rest in re.findall(
    r"^\| \[?`(\w+)`(?:\]\([^)]*\))? \| [^|]+ \| ([^|]+) \| ([^|]+) \| ([^|]+) \| ([^|]+) \| ([^|]+) \|$", TABLE.read_text(), re.MULTILINE)}

KEY = re.compile(r"[a-z]\w*(\[\])?(\.[a-z]\w*(\[\])?)+(?=$|:)")
LINK = re.compile(r"\]\(([^)#:\s]*)(?:#([^)]*))?\)")


def code_spans(page: str) -> list[str]:
    prose = re.sub(r"^```.*?^```$", "", page, flags=re.MULTILINE | re.DOTALL)
    return re.findall(r"(?<!`)`([^`\n]+)`(?!`)", prose)


def fenced(page: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)


def configuration_keys() -> set[str]:
    """Every key in full, such as `upstreams.limits.requests`."""
    sections = re.split(r"^## (.+)$", (ROOT / "docs/configuration.md").read_text(), flags=re.MULTILINE)
    return {key if section == "Top level" else f"{section.strip('`').replace('[]', '')}.{key}"
            for section, text in zip(sections[1::2], sections[2::2])
            for key in re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE)}


def anchors(text: str) -> set[str]:
    """As the usual renderers make them of headings."""
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.fixture(scope="module")
def keys():
    return configuration_keys()


def test_every_reason_has_a_page_and_no_page_is_left_over():
    assert len(REASONS) > 40
    assert sorted(PAGES) == sorted(REASONS)


@pytest.mark.parametrize("name", PAGES)
def test_page_has_its_parts(name):
    page = PAGES[name]
    assert page.startswith(f"# `{name}`\n")
    assert re.findall(r"^## (.+)$", page, re.MULTILINE) == SECTIONS
    parts = re.split(r"^## .+$", page, flags=re.MULTILINE)[1:]
    assert all(part.strip() for part in parts)
    assert page.count("\n") < 65
    # Something to copy.
    assert fenced(page, "sh") + fenced(page, "promql")


@pytest.mark.parametrize("name", PAGES)
def test_codes_are_those_of_the_table(name):
    row = re.search(r"^\|---.*\n\| (.+) \|$", PAGES[name], re.MULTILINE)[1]
    assert tuple(row.split(" | ")) == REASONS[name]


@pytest.mark.parametrize("name", PAGES)
def test_configuration_keys_are_there(name, keys):
    # `a.b`, with a value behind it or not; what stands in front may be left out.
    written = [match[0] for span in code_spans(PAGES[name]) if (match := KEY.match(span))]
    unknown = [key for key in written if key != "error.type"
               and not any(f".{full}".endswith("." + key.replace("[]", "")) for full in keys)]
    assert unknown == []


@pytest.mark.parametrize("name", PAGES)
def test_keys_of_the_access_log_are_there(name):
    documented = set(re.findall(r"`(\w+)`", " ".join(re.findall(r"^\| ((?:`\w+`(?:, )?)+) \|",
                                                              (ROOT / "docs/access-log.md").read_text(), re.MULTILINE))))
    read = "\n".join(line for block in fenced(PAGES[name], "sh") for line in block.splitlines() if "access.log" in line)
    assert set(re.findall(r"(?<!\w)\.([a-z]\w*)", read)) <= documented


@pytest.mark.parametrize("name", PAGES)
def test_links_lead_to_what_is_there(name):
    for target, anchor in LINK.findall(PAGES[name]):
        path = (ROOT / "docs/reasons" / target).resolve()
        assert path.exists(), target
        assert not anchor or anchor in anchors(path.read_text()), f"{target}#{anchor}"
    assert f"[{name}]({name}.md)" not in PAGES[name]
