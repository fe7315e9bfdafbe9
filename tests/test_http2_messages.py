"""RFC 9113 section 8, towards clients: malformed requests reach no upstream, good ones do whole."""

import json

import pytest
from support.config import http_config
from support.h2raw import DATA, END_HEADERS, END_STREAM, HEADERS, Code, dial
from support.h2rules import SERVED, Rules, check, rst, status
from support.upstream import header, headers

rules = Rules()
METHOD, SCHEME, PATH = (":method", "GET"), (":scheme", "http"), (":path", "/")
AUTHORITY = (":authority", "pillion.test")
GOOD = [METHOD, SCHEME, AUTHORITY, PATH]
# A malformed request is a stream error; a server may say it with a response (8.1.1-3, 8.1.1-4).
MALFORMED = rst(Code.PROTOCOL_ERROR) | status(400)


@pytest.fixture(scope="module")
def proxy(shared_pillion, shared_echo):
    return shared_pillion(http_config(shared_echo.address))


def malformed(reference, name, *fields, allowed=MALFORMED, end=True):
    def rule(c):
        return c.open(fields, end=end)

    rule.__name__ = name
    rules(reference, allowed, heads=0)(rule)


def fine(reference, name, *fields):
    def rule(c):
        return c.open(fields)

    rule.__name__ = name
    rules(reference, SERVED, heads=1)(rule)


def late(reference, name, send, allowed=MALFORMED, heads=1):
    """A request whose fault comes after its head: the upstream may have the head, never the whole."""

    def rule(c):
        stream = c.request("POST", headers=[("x-late", name)], end=False)
        send(c, stream)
        return stream

    rule.__name__ = name
    rules(reference, allowed, heads=heads)(rule)
    LATE.append(name)


LATE = []

# 8.1 and 8.1.1: framing of a message

late("8.1-9", "second_head_without_end_stream", lambda c, s: c.send(
    c.head_frames(s.id, [("x-second", "1")], end=False)))
late("8.1-8", "pseudo_header_in_trailers", lambda c, s: c.end(s, [(":path", "/other")]))
late("8.1-8", "status_in_trailers", lambda c, s: c.end(s, [(":status", "200")]))
late("8.2.1-3.1", "upper_case_in_trailers", lambda c, s: c.end(s, [("X-Upper", "1")]))
late("8.2.2-1", "connection_in_trailers", lambda c, s: c.end(s, [("connection", "close")]))
late("8.2.2-1", "transfer_encoding_in_trailers", lambda c, s: c.end(s, [("transfer-encoding", "chunked")]))
late("8.2.1-3.3", "line_feed_in_trailers", lambda c, s: c.end(s, [("x-a", "b\nc: d")]))


def body_of(name, length, *parts, end=True, trailers=None, reference="8.1.1-2", allowed=MALFORMED):
    def rule(c):
        stream = c.request("POST", headers=[("content-length", length), ("x-late", name)], end=False)
        for index, part in enumerate(parts):
            last = end and trailers is None and index == len(parts) - 1
            c.send_frame(DATA, END_STREAM if last else 0, stream.id, part)
        if trailers is not None:
            c.end(stream, trailers)
        return stream

    rule.__name__ = name
    rules(reference, allowed, heads=1)(rule)
    LATE.append(name)


body_of("body_shorter_than_content_length", "10", b"12345")
body_of("body_longer_than_content_length", "3", b"12345")
# By then an HTTP/1.1 upstream has all that it was promised, and may have answered (8.1.1-5).
body_of("body_longer_in_its_second_frame", "3", b"123", b"45", allowed=MALFORMED | {SERVED})
LATE.remove("body_longer_in_its_second_frame")
body_of("body_longer_before_its_end", "3", b"12345", end=False)
body_of("body_missing_altogether", "5", b"")
body_of("body_short_before_trailers", "10", b"12345", trailers=[("x-t", "1")])


@rules("8.1.1-2", MALFORMED, heads=0)
def content_length_without_a_body(c):
    return c.open([(":method", "POST"), *GOOD[1:], ("content-length", "5")])


for name, values in {
    "content_length_twice_and_different": ("5", "6"),
    "content_length_of_two_numbers": ("5, 6",),
    "content_length_negative": ("-1",),
    "content_length_with_a_sign": ("+5",),
    "content_length_hexadecimal": ("0x5",),
    "content_length_empty": ("",),
    "content_length_not_a_number": ("five",),
    "content_length_beyond_64_bits": ("18446744073709551621",),
}.items():
    # `end=False` with a body of five octets behind it: the value alone is at fault.
    def send(c, values=values):
        stream = c.open([(":method", "POST"), *GOOD[1:], *(("content-length", v) for v in values)], end=False)
        c.send_frame(DATA, END_STREAM, stream.id, b"12345")
        return stream

    send.__name__ = name
    rules("8.1.1-2", MALFORMED, heads=0)(send)


@rules("8.1.1-2", SERVED, heads=1)
def body_of_its_content_length(c):
    stream = c.request("POST", headers=[("content-length", "10")], end=False)
    c.send_frame(DATA, 0, stream.id, b"12345")
    c.send_frame(DATA, 0x8, stream.id, b"\x03678" + bytes(3))  # padding is not content
    c.send_frame(DATA, END_STREAM, stream.id, b"90")
    return stream


# 8.2.1 Field validity

malformed("8.2.1-3.1", "upper_case_name", *GOOD, ("X-Upper", "1"))
malformed("8.2.1-3.1", "upper_case_letter_in_a_name", *GOOD, ("x-uppeR", "1"))
malformed("8.2.1-3.1", "space_in_a_name", *GOOD, ("x a", "1"))
malformed("8.2.1-3.1", "space_after_a_name", *GOOD, ("x-a ", "1"))
malformed("8.2.1-3.1", "tab_in_a_name", *GOOD, ("x\ta", "1"))
malformed("8.2.1-3.1", "nul_in_a_name", *GOOD, ("x\0a", "1"))
malformed("8.2.1-3.1", "line_feed_in_a_name", *GOOD, ("x\na", "1"))
malformed("8.2.1-3.1", "carriage_return_in_a_name", *GOOD, ("x\ra", "1"))
malformed("8.2.1-3.1", "delete_in_a_name", *GOOD, ("x\x7fa", "1"))
malformed("8.2.1-3.1", "high_octet_in_a_name", *GOOD, (b"x\x80a", b"1"))
malformed("8.2.1-3.2", "colon_in_a_name", *GOOD, ("x:a", "1"))
malformed("8.2.1-3.2", "colon_after_a_name", *GOOD, ("host:", "1"))
malformed("8.2.1-1", "empty_name", *GOOD, ("", "1"))
malformed("8.2.1-3.3", "nul_in_a_value", *GOOD, ("x-a", "a\0b"))
malformed("8.2.1-3.3", "line_feed_in_a_value", *GOOD, ("x-a", "a\nb: c"))
malformed("8.2.1-3.3", "carriage_return_in_a_value", *GOOD, ("x-a", "a\rb"))
malformed("8.2.1-3.3", "line_end_in_a_value", *GOOD, ("x-a", "a\r\n\r\nGET /smuggled HTTP/1.1"))
malformed("8.2.1-3.3", "line_feed_in_the_path", METHOD, SCHEME, AUTHORITY, (":path", "/a\nb"))
malformed("8.2.1-3.3", "space_in_the_path", METHOD, SCHEME, AUTHORITY, (":path", "/a HTTP/1.1\r\nx: y"))
malformed("8.2.1-3.3", "line_end_in_the_method", (":method", "GET / HTTP/1.1\r\nx: "), *GOOD[1:])
malformed("8.2.1-3.3", "space_in_the_method", (":method", "GE T"), *GOOD[1:])
malformed("8.2.1-3.3", "line_end_in_the_authority", METHOD, SCHEME, (":authority", "a\r\nx: y"), PATH)
malformed("8.2.1-3.4", "space_before_a_value", *GOOD, ("x-a", " a"))
malformed("8.2.1-3.4", "space_after_a_value", *GOOD, ("x-a", "a "))
malformed("8.2.1-3.4", "tab_before_a_value", *GOOD, ("x-a", "\ta"))
malformed("8.2.1-3.4", "tab_after_a_value", *GOOD, ("x-a", "a\t"))
fine("8.2.1-1", "tab_inside_a_value", *GOOD, ("x-a", "a\tb"))
fine("8.2.1-1", "high_octets_in_a_value", *GOOD, (b"x-a", b"\xe4\xf6\xfc"))
fine("8.2.1-1", "empty_value", *GOOD, ("x-a", ""))
fine("8.2.1-7", "value_that_its_field_does_not_allow", *GOOD, ("date", "yesterday"))

# 8.2.2 Connection-specific fields

for field, value in {
    "connection": "keep-alive",
    "keep-alive": "timeout=5",
    "proxy-connection": "keep-alive",
    "transfer-encoding": "chunked",
    "upgrade": "websocket",
}.items():
    malformed("8.2.2-1", f"{field.replace('-', '_')}_field", *GOOD, (field, value))
malformed("8.2.2-1", "connection_field_with_te", *GOOD, ("connection", "te"), ("te", "trailers"))
malformed("8.2.2-2", "te_gzip", *GOOD, ("te", "gzip"))
malformed("8.2.2-2", "te_trailers_and_more", *GOOD, ("te", "trailers, deflate;q=0.5"))
fine("8.2.2-2", "te_trailers", *GOOD, ("te", "trailers"))

# 8.3 Control data

malformed("8.3-3", "unknown_pseudo_header", *GOOD, (":unknown", "1"))
malformed("8.3-3", "pseudo_header_of_a_response", *GOOD, (":status", "200"))
malformed("8.3-3", "empty_pseudo_header_name", *GOOD, (":", "1"))
malformed("8.3-3", "upper_case_pseudo_header", (":Method", "GET"), *GOOD[1:])
malformed("8.3-3", "protocol_without_connect", *GOOD, (":protocol", "websocket"))
malformed("8.3-4", "pseudo_header_after_a_field", METHOD, SCHEME, AUTHORITY, ("x-a", "1"), PATH)
malformed("8.3-4", "method_after_a_field", ("x-a", "1"), *GOOD)
malformed("8.3-5", "method_twice", METHOD, *GOOD)
malformed("8.3-5", "scheme_twice", *GOOD, SCHEME)
malformed("8.3-5", "path_twice", *GOOD, PATH)
malformed("8.3-5", "path_twice_and_different", *GOOD, (":path", "/other"))
malformed("8.3-5", "authority_twice", *GOOD, AUTHORITY)
malformed("8.3-5", "authority_twice_and_different", *GOOD, (":authority", "other.test"))
malformed("8.3.1-3", "no_method", SCHEME, AUTHORITY, PATH)
malformed("8.3.1-3", "no_scheme", METHOD, AUTHORITY, PATH)
malformed("8.3.1-3", "no_path", METHOD, SCHEME, AUTHORITY)
malformed("8.3.1-3", "nothing_but_a_method", METHOD)
malformed("8.3.1-3", "no_fields_at_all")
malformed("8.3.1-3", "empty_method", (":method", ""), *GOOD[1:])
malformed("8.3.1-3", "empty_scheme", METHOD, (":scheme", ""), AUTHORITY, PATH)
malformed("8.3.1-3", "scheme_that_is_none", METHOD, (":scheme", "1 2"), AUTHORITY, PATH)
malformed("8.3.1-2.4", "empty_path", METHOD, SCHEME, AUTHORITY, (":path", ""))
malformed("8.3.1-2.4", "path_without_a_slash", METHOD, SCHEME, AUTHORITY, (":path", "index.html"))
malformed("8.3.1-2.4", "asterisk_without_options", METHOD, SCHEME, AUTHORITY, (":path", "*"))
malformed("8.3.1-2.4", "absolute_uri_as_path", METHOD, SCHEME, AUTHORITY, (":path", "http://other.test/"))
malformed("8.3.1-2.4", "fragment_in_the_path", METHOD, SCHEME, AUTHORITY, (":path", "/a#b"))
malformed("8.3.1-2.3", "no_authority_and_no_host", METHOD, SCHEME, PATH)
malformed("8.3.1-2.3", "empty_authority", METHOD, SCHEME, (":authority", ""), PATH)
malformed("8.3.1-2.3", "userinfo_in_the_authority", METHOD, SCHEME, (":authority", "user@pillion.test"), PATH)
malformed("8.3.1-2.3", "path_in_the_authority", METHOD, SCHEME, (":authority", "pillion.test/path"), PATH)
malformed("8.3.1-2.3", "host_that_differs", *GOOD, ("host", "other.test"))
malformed("8.3.1-2.3", "host_twice", METHOD, SCHEME, PATH, ("host", "a.test"), ("host", "b.test"))
fine("8.3.1-2.3", "host_that_is_the_same", *GOOD, ("host", "pillion.test"))
fine("8.3.1-2.3", "host_that_is_the_same_but_for_case_and_default_port", *GOOD, ("host", "Pillion.Test:80"))
fine("8.3.1-2.3", "host_instead_of_authority", METHOD, SCHEME, PATH, ("host", "pillion.test"))
fine("8.3.1-2.4", "options_of_asterisk", (":method", "OPTIONS"), SCHEME, AUTHORITY, (":path", "*"))
fine("8.3.1-3", "unknown_method", (":method", "BREW"), SCHEME, AUTHORITY, PATH)
fine("8.3.1-3", "pseudo_headers_in_another_order", PATH, AUTHORITY, SCHEME, METHOD)
fine("8.3.1-2.2", "scheme_https", METHOD, (":scheme", "https"), AUTHORITY, PATH)

# 8.5 CONNECT, which this listener does not allow even when it is well formed

NOT_ALLOWED = MALFORMED | status(405)
malformed("8.5-3.2", "connect_with_scheme_and_path", (":method", "CONNECT"), *GOOD[1:])
malformed("8.5-3.2", "connect_with_a_path", (":method", "CONNECT"), AUTHORITY, PATH)
malformed("8.5-3.2", "connect_with_a_scheme", (":method", "CONNECT"), SCHEME, AUTHORITY)
malformed("8.5-3.3", "connect_without_authority", (":method", "CONNECT"))
malformed("8.5-3.3", "connect_without_a_port", (":method", "CONNECT"), AUTHORITY, allowed=NOT_ALLOWED)
malformed("8.5-1", "connect_that_is_not_allowed", (":method", "CONNECT"), (":authority", "a.test:1"), end=False,
          allowed=status(405))
# RFC 8441 section 4: extended CONNECT has :scheme, :path and :authority.
EXTENDED = (":method", "CONNECT"), (":protocol", "websocket")
malformed("8441-4", "extended_connect_without_scheme", *EXTENDED, AUTHORITY, PATH)
malformed("8441-4", "extended_connect_without_path", *EXTENDED, AUTHORITY, SCHEME)
malformed("8441-4", "extended_connect_without_authority", *EXTENDED, SCHEME, PATH)
malformed("8441-4", "extended_connect_with_an_empty_protocol", EXTENDED[0], (":protocol", ""), SCHEME, AUTHORITY, PATH,
          allowed=MALFORMED | status(501))


@rules("8441-4", MALFORMED, status(501), heads=1)
def extended_connect_of_a_protocol_that_the_upstream_does_not_know(c):
    # The upstream may see it as an Upgrade; its plain 200 must not look like an open tunnel.
    return c.open([EXTENDED[0], (":protocol", "gopher"), SCHEME, AUTHORITY, PATH], end=False)


@pytest.mark.parametrize("rule", rules, ids=lambda rule: rule.id)
def test_rule(rule, proxy, shared_echo):
    before = len(shared_echo.requests)
    check(rule, proxy.address(), shared_echo)
    if rule.name in LATE:
        # What the upstream has of it was never completed.
        whole = [r for r in shared_echo.requests[before:] if header(r, "x-late")]
        assert not whole, whole


def account(response):
    return json.loads(response.data)


def trailers(response):
    return {name.lower(): value for name, value in account(response)["trailers"]}


def test_trailers_end_a_request(proxy):
    """8.1-8: trailers arrive as trailers, also in several frames."""
    with dial(proxy.address()) as client:
        stream = client.request("POST", body=b"body", headers=[("trailer", "x-sum, x-big")],
                                trailers=[("x-sum", "1"), ("x-big", "v" * 20000)])
        got = trailers(client.response(stream))
        assert got["x-sum"] == "1" and len(got["x-big"]) == 20000
        # 8.1-8 and 6.1: a request may end with trailers and have no body.
        stream = client.request("POST", trailers=[("x-sum", "2")])
        assert trailers(client.response(stream)) == {"x-sum": "2"}
        assert account(stream)["length"] == 0


def test_cookies_are_joined_for_http1(proxy):
    """8.2.3-2: cookie fields become one, with '; ' between them."""
    with dial(proxy.address()) as client:
        crumbs = [("cookie", "a=b"), ("x-between", "1"), ("cookie", "c=d; e=f"), ("cookie", "g=h")]
        told = account(client.response(client.request(headers=crumbs)))
        assert header(told, "cookie") == "a=b; c=d; e=f; g=h"


def test_host_is_made_from_the_authority(proxy):
    """8.3.1-2.3: :authority becomes Host, and replaces a Host that came with it."""
    with dial(proxy.address()) as client:
        told = account(client.response(client.request(authority="shop.test:8080")))
        assert headers(told, "host") == ["shop.test:8080"]
        told = account(client.response(client.open([METHOD, SCHEME, PATH, ("host", "only.test")])))
        assert headers(told, "host") == ["only.test"]
        same = [METHOD, SCHEME, PATH, (":authority", "both.test"), ("host", "BOTH.test")]
        told = account(client.response(client.open(same)))
        assert headers(told, "host") == ["both.test"]


def test_http1_form_of_a_request(proxy):
    """The upstream sees one canonical HTTP/1.1 head: no pseudo-header, no connection field."""
    with dial(proxy.address()) as client:
        told = account(client.response(client.request("PUT", "/a/b?c=d", body=b"x", headers=[("te", "trailers")])))
        assert (told["method"], told["target"], told["version"]) == ("PUT", "/a/b?c=d", "HTTP/1.1")
        names = [name.lower() for name, _ in told["headers"]]
        assert not [name for name in names if name.startswith(":")]
        assert names.count("host") == 1
        assert told["framing"] == "chunked"  # no content-length came, so none is made up
        # A request that ends with its head has no body to frame (RFC 9112 section 6.3).
        told = account(client.response(client.request()))
        assert not headers(told, "transfer-encoding")


def test_content_length_is_kept(proxy):
    """A length that the client gave is the framing of the request to the upstream."""
    with dial(proxy.address()) as client:
        stream = client.request("POST", headers=[("content-length", "5")], body=b"12345")
        told = account(client.response(stream))
        assert header(told, "content-length") == "5" and not headers(told, "transfer-encoding")


def test_response_head_is_made_for_http2(proxy):
    """8.2.2-1: connection-specific fields of an HTTP/1.1 response don't pass; names are lower case."""
    with dial(proxy.address()) as client:
        path = "/?chunked&close&header=Keep-Alive:timeout%3D5&header=X-Mixed-Case:1&header=Proxy-Connection:close"
        answer = client.response(client.request(path=path))
        names = [name for name, _ in answer.headers]
        assert answer.get("x-mixed-case") == "1"
        assert all(name == name.lower() for name in names)
        forbidden = {"connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade"}
        assert not forbidden & set(names)
        assert names[0] == ":status" and names.count(":status") == 1


@pytest.mark.parametrize("status_code", [204, 304])
def test_responses_without_content_end_with_their_head(proxy, status_code):
    """8.1-11: no DATA follows where there is no content."""
    with dial(proxy.address()) as client:
        answer = client.response(client.request(path=f"/?status={status_code}"))
        assert answer.status == status_code and not answer.data


def test_head_has_the_length_and_no_content(proxy):
    """8.1.1-2: the response to HEAD keeps its content-length."""
    with dial(proxy.address()) as client:
        answer = client.response(client.request("HEAD", "/?size=12345"))
        assert answer.status == 200 and not answer.data
        assert answer.get("content-length") == "12345"


@pytest.mark.parametrize("field", [("x-a ", "1"), ("X-Upper", "1")], ids=["space", "upper-case"])
def test_a_malformed_head_is_answered_counted_and_logged(pillion, echo, field):
    """8.1.1-4: the client is told with a 400, and the connection lives on."""
    proxy = pillion(http_config(echo.address))
    with dial(proxy.address()) as client:
        stream = client.response(client.open([*GOOD, field]))
        assert stream.status == 400 and stream.get("x-pillion-reason") == "bad_request"
        client.expect_alive()
    proxy.wait_reason("bad_request")
    assert "field name" in proxy.access(reason="bad_request")["detail"]


def test_what_ends_a_connection_is_counted_and_logged(pillion, echo):
    proxy = pillion(http_config(echo.address))
    with dial(proxy.address()) as client:
        client.send_frame(DATA, 0, 0, b"x")
        client.expect_closed()
    proxy.wait_reason("bad_request")
    assert "HTTP/2: PROTOCOL_ERROR" in proxy.access(reason="bad_request")["detail"]


@pytest.mark.parametrize("value", [" 1", "1\t"])
def test_padded_trailers_never_complete_a_request(proxy, shared_echo, value):
    """8.2.1-3.4, in the part of the message that comes last."""
    with dial(proxy.address()) as client:
        stream = client.request("POST", "/padded", body=b"x", headers=[("trailer", "x-sum")], trailers=[("x-sum", value)])
        client.until(lambda: stream.over, what="an end")
        assert stream.status == 400 or stream.reset == Code.PROTOCOL_ERROR
        client.expect_alive()
    assert not [r for r in shared_echo.requests if r["target"] == "/padded"]


def test_continue_is_sent_to_who_waits_for_it(proxy):
    """8.1-4: an interim response, then the final one."""
    with dial(proxy.address()) as client:
        stream = client.request("POST", headers=[("expect", "100-continue"), ("content-length", "2")], end=False)
        client.until(lambda: stream.informational, what="100 (Continue)")
        assert stream.informational == [[(":status", "100")]]
        client.write(stream, b"ok")
        client.end(stream)
        assert account(client.response(stream))["length"] == 2
        assert len(stream.informational) == 1


def test_trailers_in_a_frame_of_the_same_stream_only(proxy):
    """8.1-6: a whole second head with END_STREAM is trailers, whatever it is named like."""
    with dial(proxy.address()) as client:
        stream = client.request("POST", end=False)
        client.send_frame(DATA, 0, stream.id, b"x")
        client.send_frame(HEADERS, END_HEADERS | END_STREAM, stream.id, client.block([("host", "other.test")]))
        client.until(lambda: stream.over, what="an end")
        if stream.status == 200:
            told = account(stream)
            # RFC 9110 section 6.5.1: routing fields never count when they come as trailers.
            assert headers(told, "host") == ["pillion.test"]
            assert "host" not in trailers(stream)
