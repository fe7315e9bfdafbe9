"""One form of a path: what is matched is what is forwarded."""

import pytest
from support.client import fetch
from support.config import http_config

ADMIN = [
    {"name": "admin", "rules": [{
        "matches": [{"path": {"type": "PathPrefix", "value": "/admin"}}],
        "filters": [{"type": "DirectResponse", "directResponse": {"statusCode": 403, "body": "no"}}],
    }]},
    {"name": "rest", "rules": [{"backendRefs": [{"name": "app"}]}]},
]


@pytest.fixture
def through(pillion, echo):
    """`through(target, **path policy)`: what the upstream was sent, or the status of a refusal."""
    proxies = {}

    def send(target, routes=None, **policy):
        key = str((routes is not None, policy))
        if key not in proxies:
            proxies[key] = pillion(http_config(echo.address, http={"path": policy} if policy else None, routes=routes))
        response = fetch(proxies[key].address(), "GET", target)
        return response.json()["target"] if response.status == 200 else response.status

    return send


@pytest.mark.parametrize("target, expected", [
    ("/", "/"),
    ("/a/b/c", "/a/b/c"),
    ("/a/./b", "/a/b"),
    ("/a/../b", "/b"),
    ("/a/b/../../c", "/c"),
    ("/../../a", "/a"),
    ("/a/..", "/"),
    ("/a/b/..", "/a/"),
    ("/a/.", "/a/"),
    ("/a/", "/a/"),
    ("/..", "/"),
    ("/.", "/"),
    ("/a/...", "/a/..."),
    ("/a/.b", "/a/.b"),
    ("/a/..b", "/a/..b"),
    ("/%61dmin", "/admin"),
    ("/%7Euser%2D%5f%2e%41%7a%30", "/~user-_.Az0"),
    ("/%2e%2e/a", "/a"),
    ("/a/%2E%2e/b", "/b"),
    ("/a/.%2e/b", "/b"),
    ("/a/%2e/b", "/a/b"),
    ("/a%252e%252e/b", "/a%252e%252e/b"),
    ("/%25%36%31", "/%2561"),
    ("/a//b", "/a//b"),
    ("//a", "//a"),
    ("/a;x=1/b", "/a;x=1/b"),
    ("/a;x/../b", "/b"),
    ("/a!$&'()*+,=:@b", "/a!$&'()*+,=:@b"),
    ("/a?x=/../b&y=%61&z=a//b\\c", "/a?x=/../b&y=%61&z=a//b\\c"),
    ("/a/../b?/../c", "/b?/../c"),
    ("/?", "/?"),
    ("/a?", "/a?"),
    ("/a??b?", "/a??b?"),
])
def test_paths_are_normalised(through, target, expected):
    assert through(target) == expected


def test_percent_encoded_bytes_stay_but_for_the_case_of_their_digits(through):
    """RFC 3986 section 6.2.2.1: the digits may be written in upper case."""
    assert through("/caf%c3%a9").upper() == "/CAF%C3%A9"
    assert through("/a%20b") == "/a%20b"


@pytest.mark.parametrize("target", ["/%", "/%4", "/%zz", "/a%", "/%g1", "/% 1"])
def test_a_broken_escape_is_refused(through, target):
    assert through(target) == 400


def test_an_escaped_slash_is_kept(through):
    assert through("/a%2fb").lower() == "/a%2fb"
    assert through("/a%5Cb").lower() == "/a%5cb"
    assert through("/a/..%2Fb").lower() == "/a/..%2fb"


def test_an_escaped_slash_is_decoded_before_dots_are_removed(through):
    assert through("/a%2fb", escapedSlash="decode") == "/a/b"
    assert through("/a/..%2Fb", escapedSlash="decode") == "/b"
    assert through("/a%2f..%2fb", escapedSlash="decode") == "/b"


def test_an_escaped_slash_is_refused(through):
    assert through("/a%2fb", escapedSlash="reject") == 400
    assert through("/a%2Fb", escapedSlash="reject") == 400
    assert through("/a?%2F", escapedSlash="reject") == "/a?%2F"


def test_a_backslash_is_refused_by_default(through):
    assert through("/a\\b") == 400
    assert through("/a\\..\\b") == 400


def test_a_backslash_is_a_slash(through):
    assert through("/a\\b", backslash="slash") == "/a/b"
    assert through("/a\\..\\b", backslash="slash") == "/b"


def test_a_backslash_is_kept(through):
    assert through("/a\\b", backslash="keep") in ("/a\\b", "/a%5Cb")


def test_slashes_are_merged(through):
    assert through("//a///b//", mergeSlashes=True) == "/a/b/"
    assert through("/a?b//c", mergeSlashes=True) == "/a?b//c"
    assert through("/a//../b", mergeSlashes=True) == "/b"


@pytest.mark.parametrize("target", [
    "/admin", "/admin/", "/admin/x", "/x/../admin", "/%61dmin", "/./admin", "/%2e/admin", "/x/%2e%2e/admin",
    "/x/.%2E/%61dmin/y", "/../admin", "/admin?x", "/x/../x/../admin",
])
def test_no_spelling_passes_by_a_rule(through, target):
    assert through(target, routes=ADMIN) == 403


@pytest.mark.parametrize("target", ["//admin", "/%2fadmin", "/x/..%2fadmin", "/x\\..\\admin", "/admin%2f", "/x/..//admin"])
def test_no_spelling_passes_by_a_rule_where_slashes_are_one(through, target):
    policy = {"escapedSlash": "decode", "backslash": "slash", "mergeSlashes": True}
    assert through(target, routes=ADMIN, **policy) == 403


@pytest.mark.parametrize("target", ["/admi", "/administrator", "/x/admin", "/ADMIN"])
def test_other_paths_do_not_match(through, target):
    assert through(target, routes=ADMIN) == target
