"""Who may call what: rules by address, host, method, path, header and token; deny wins; audit;
and what becomes of open streams and connections when the policy changes."""

import http.server
import json
import ssl
import subprocess
import threading
import time

import pytest
from support.client import RawClient, fetch
from support.config import http_config, tcp_config
from support.h2raw import Code, dial
from support.jwt import Es256, Rs256, encode, key_set
from support.upstream import headers
from support.wait import eventually
from support.wire import Closed


def rule(name: str, action: str = "allow", **more) -> dict:
    return {"name": name, "action": action, **more}


def deny(name: str, **more) -> dict:
    return rule(name, "deny", **more)


@pytest.fixture
def guarded(pillion, echo):
    """`guarded(rules...)`: a proxy with these rules in front of an echo."""
    return lambda *rules, files=None, **config: pillion(
        http_config(echo.address, access=list(rules), **config), files=files)


def status(proxy, target="/", method="GET", host="app.test", **headers) -> int:
    fields = {"Host": host, **{name.replace("_", "-"): value for name, value in headers.items()}}
    return fetch(proxy.address(), method, target, fields).status


def decisions(proxy, **labels) -> float:
    return proxy.metrics().value("pillion_access_decisions_total", **labels) or 0


# Rules.


def test_without_rules_everybody_may(guarded):
    proxy = guarded()
    assert status(proxy) == 200
    assert "pillion_access_decisions_total{" not in proxy.admin_get("/metrics").body.decode()


def test_with_an_allow_rule_the_rest_is_denied(guarded, echo):
    proxy = guarded(rule("read", to={"methods": ["GET", "HEAD"]}))
    assert status(proxy) == 200
    refused = fetch(proxy.address(), "POST", "/items", body=b"x")
    line = proxy.refused(refused, "access_denied", 403, path="/items")
    assert line["flags"] == "UAEX"
    assert line["detail"] == "no rule allows it"
    assert refused.header("proxy-status").startswith("pillion; error=http_request_denied")
    assert len(echo.requests) == 1
    assert decisions(proxy, listener="web", rule="read", decision="allowed") == 1
    assert decisions(proxy, listener="web", rule="", decision="denied") == 1


def test_deny_wins_wherever_it_stands(guarded):
    proxy = guarded(rule("all"), deny("no-admin", to={"paths": [{"value": "/admin"}]}))
    assert status(proxy, "/administration") == 200
    refused = fetch(proxy.address(), target="/admin/users")
    line = proxy.refused(refused, "access_denied", 403)
    assert line["detail"] == "rule `no-admin` denies it"
    assert b"no-admin" not in refused.raw_head + refused.body, "the rules are nobody else's business"
    assert decisions(proxy, rule="no-admin", decision="denied") == 1


@pytest.mark.parametrize("target", ["/admin", "/admin/", "/admin/x", "//../admin", "/x/../admin", "/%61dmin", "/./admin"])
def test_a_path_is_judged_in_the_form_in_which_it_is_sent(guarded, target):
    proxy = guarded(deny("no-admin", to={"paths": [{"type": "PathPrefix", "value": "/admin"}]}))
    assert status(proxy, target) == 403


def test_every_condition_has_to_hold(guarded):
    proxy = guarded(rule("one", **{"from": {"addresses": ["127.0.0.0/8"]}, "to": {
        "hostnames": ["*.shop.example"], "methods": ["GET"],
        "paths": [{"type": "RegularExpression", "value": "/[a-z]+"}], "headers": [{"name": "x-tenant", "value": "a"}]}}))
    good = {"target": "/items", "host": "a.shop.example", "x_tenant": "a"}
    assert status(proxy, **good) == 200
    assert status(proxy, **good, method="POST") == 403
    for key, other in (("target", "/Items"), ("host", "shop.example"), ("x_tenant", "b")):
        assert status(proxy, **{**good, key: other}) == 403, key
    del good["x_tenant"]
    assert status(proxy, **good) == 403


def test_addresses(guarded):
    assert status(guarded(rule("a", **{"from": {"addresses": ["127.0.0.1"]}}))) == 200
    assert status(guarded(rule("a", **{"from": {"addresses": ["10.0.0.0/8", "::1"]}}))) == 403
    proxy = guarded(deny("a", **{"from": {"addresses": ["127.0.0.0/8"]}}))
    assert status(proxy, x_forwarded_for="10.1.2.3") == 403, "what a client says of itself doesn't count"


def test_the_address_is_that_of_the_proxy_header(guarded, connect):
    proxy = guarded(rule("a", **{"from": {"addresses": ["192.0.2.0/24"]}}), listener={"proxyProtocol": True})
    for source, expected in (("192.0.2.7", 200), ("198.51.100.7", 403)):
        client = connect(proxy.address())
        client.send(f"PROXY TCP4 {source} 192.0.2.1 4000 80\r\n")
        assert client.get().status == expected


def test_rules_are_for_the_listeners_and_ports_they_name(pillion, echo):
    config = http_config(echo.address)
    config["listeners"].append({"name": "other", "address": "127.0.0.1:0", "upstream": "app"})
    config["access"] = [deny("no", listeners=["other"])]
    proxy = pillion(config)
    assert fetch(proxy.address("web")).status == 200
    assert fetch(proxy.address("other")).status == 403
    # A port that nobody knows beforehand.
    config["access"] = [deny("no", ports=[proxy.port("web")])]
    proxy.must_reload(config)
    assert fetch(proxy.address("web")).status == 403
    assert fetch(proxy.address("other")).status == 200


def test_answers_of_rules_are_guarded_too(guarded):
    routes = [{"rules": [{"filters": [{"type": "DirectResponse", "directResponse": {"statusCode": 200, "body": "x"}}]}]}]
    assert status(guarded(deny("all"), routes=routes)) == 403


def test_grpc_is_told_in_its_own_form(guarded):
    proxy = guarded(deny("all"))
    with dial(proxy.address()) as client:
        stream = client.response(client.request("POST", headers=[("content-type", "application/grpc")]))
        assert stream.status == 200
        assert stream.get("grpc-status") == "7"


def test_a_websocket_is_a_get_over_http2_as_well(guarded):
    proxy = guarded(deny("no", to={"methods": ["GET"], "paths": [{"value": "/chat"}]}))
    with dial(proxy.address()) as client:
        client.settled()
        stream = client.open([(":method", "CONNECT"), (":protocol", "websocket"), (":scheme", "http"),
                              (":path", "/chat"), (":authority", "app.test"), ("sec-websocket-version", "13")], end=False)
        assert client.response(stream).status == 403


# Identities.


@pytest.fixture
def pki(binary, tmp_path):
    """Certificates of `server`, `cart` and `web`."""
    out = tmp_path / "pki"
    subprocess.run([binary, "dev-ca", "--out", out, "server", "cart", "web"], check=True, capture_output=True)
    return out


def secured(echo, pki, *rules, **tls) -> dict:
    return http_config(
        echo.address, identity={"certificate": f"{pki}/server.crt", "key": f"{pki}/server.key"},
        trust=[{"authorities": [f"{pki}/ca.crt"]}], listener={"tls": tls}, access=list(rules))


def as_caller(proxy, pki, name: str | None) -> RawClient:
    """A connection on which `name` has proved who it is."""
    context = ssl.create_default_context(cafile=pki / "ca.crt")
    if name:
        context.load_cert_chain(pki / f"{name}.crt", pki / f"{name}.key")
    client = RawClient(proxy.address())
    client.sock = context.wrap_socket(client.sock, server_hostname="localhost")
    return client


@pytest.mark.parametrize("condition", [
    {"identities": ["spiffe://pillion.local/ns/default/sa/cart"]},
    {"identities": ["spiffe://pillion.local/*/default/sa/cart"]},
    {"identities": ["spiffe://pillion.local/ns/default/sa/cart"], "namespaces": ["default"]},
])
def test_callers_are_told_apart_by_their_identity(pillion, echo, pki, condition):
    proxy = pillion(secured(echo, pki, rule("carts", **{"from": condition})))
    with as_caller(proxy, pki, "cart") as cart, as_caller(proxy, pki, "web") as web:
        assert (cart.get().status, web.get().status) == (200, 403)


@pytest.mark.parametrize(("condition", "expected"), [
    ({"identities": ["spiffe://pillion.local"]}, 200),
    ({"identities": ["spiffe://other.example"]}, 403),
    ({"namespaces": ["shop", "default"]}, 200),
    ({"namespaces": ["shop"]}, 403),
])
def test_trust_domains_and_namespaces(pillion, echo, pki, condition, expected):
    proxy = pillion(secured(echo, pki, rule("some", **{"from": condition})))
    with as_caller(proxy, pki, "web") as web:
        assert web.get().status == expected


def test_who_shows_no_certificate_has_no_identity(pillion, echo, pki):
    known = rule("known", **{"from": {"identities": ["spiffe://pillion.local"]}})
    proxy = pillion(secured(echo, pki, known, mode="permissive", clientCertificates="optional"))
    assert status(proxy) == 403, "plaintext"
    with as_caller(proxy, pki, None) as nobody, as_caller(proxy, pki, "web") as web:
        assert (nobody.get().status, web.get().status) == (403, 200)


def test_a_stream_over_tls_ends_when_its_caller_is_no_longer_let_in(pillion, echo, pki):
    all_of_us = rule("us", **{"from": {"identities": ["spiffe://pillion.local"]}})
    no_web = deny("no-web", **{"from": {"identities": ["spiffe://pillion.local/ns/default/sa/web"]}})
    proxy = pillion(secured(echo, pki, all_of_us))
    with as_caller(proxy, pki, "cart") as cart, as_caller(proxy, pki, "web") as web:
        for client in (cart, web):
            streaming(client, proxy)
        proxy.must_reload(secured(echo, pki, all_of_us, no_web))
        assert is_cut(web)
        echo.open_gate("never")
        cart.recv_exact(140_000)


# Audit.


def test_an_audited_rule_only_tells(guarded):
    proxy = guarded(rule("all"), deny("perhaps", audit=True, to={"paths": [{"value": "/old"}]}))
    assert status(proxy, "/old") == 200
    assert status(proxy, "/new") == 200
    assert proxy.access(path="/old")["detail"] == "audit: rule `perhaps` would deny"
    assert not proxy.access(path="/new")["detail"]
    assert decisions(proxy, rule="perhaps", decision="audit_denied") == 1
    assert decisions(proxy, rule="all", decision="audit_allowed") == 1
    assert decisions(proxy, rule="all", decision="allowed") == 2


def test_an_audited_allow_rule_restricts_nobody_yet(guarded):
    proxy = guarded(rule("shop", audit=True, to={"paths": [{"value": "/shop"}]}))
    assert status(proxy, "/shop") == 200
    assert status(proxy, "/else") == 200
    assert proxy.access(path="/else")["detail"] == "audit: no rule would allow"
    assert decisions(proxy, rule="shop", decision="audit_allowed") == 1
    assert decisions(proxy, rule="", decision="audit_denied") == 1


# Tokens.


@pytest.fixture(scope="module")
def issuers():
    return Es256(), Rs256()


def corp(**more) -> dict:
    return {"name": "corp", "issuer": "https://id.example", "audiences": ["shop"], "jwks": {"file": "jwks.json"}, **more}


def with_token(name="tokens", claims=(), **more) -> dict:
    return rule(name, jwt={"provider": "corp", "claims": [{"name": key, "value": value} for key, value in claims]}, **more)


@pytest.fixture
def token_guarded(guarded, issuers):
    def start(*rules, **provider):
        return guarded(*(rules or [with_token()]), jwtProviders=[corp(**provider)], files={"jwks.json": key_set(*issuers)})
    return start


def ask(proxy, headers=(), target="/"):
    return fetch(proxy.address(), "GET", target, headers)


def test_a_token_lets_in(token_guarded, issuers):
    proxy = token_guarded()
    for issuer in issuers:
        assert ask(proxy, issuer.bearer()).status == 200, issuer.algorithm
        assert ask(proxy, issuer.bearer(aud=["other", "shop"])).status == 200


def test_without_a_token_one_is_asked_for(token_guarded):
    proxy = token_guarded()
    refused = ask(proxy)
    proxy.refused(refused, "token_missing", 401)
    assert refused.header("www-authenticate") == "Bearer"
    assert ask(proxy, {"Authorization": "Basic eDp5"}).status == 401


@pytest.mark.parametrize(("claims", "why"), [
    ({"exp": 1}, "it has expired"),
    ({"exp": None}, "it has no expiry"),
    ({"nbf": 4_000_000_000}, "it is not valid yet"),
    ({"iss": "https://evil.example"}, "it is of another issuer"),
    ({"aud": "other"}, "it is for another audience"),
    ({"aud": None}, "it is for another audience"),
    ({"header": {"alg": "none"}}, "its algorithm is not allowed"),
    ({"header": {"alg": "HS256"}}, "its algorithm is not allowed"),
    ({"header": {"alg": "ES256", "kid": "rsa"}}, "none of the provider's keys that are here fits it"),
    ({"header": {"alg": "ES256", "kid": "ec", "crit": ["x"]}}, "it has critical extensions"),
])
def test_a_bad_token_is_refused(token_guarded, issuers, claims, why):
    proxy = token_guarded()
    refused = ask(proxy, issuers[0].bearer(**claims))
    line = proxy.refused(refused, "token_invalid", 401)
    assert line["detail"] == why
    assert refused.header("www-authenticate") == 'Bearer error="invalid_token"'


def test_a_forged_token_is_refused(token_guarded, issuers):
    proxy = token_guarded()
    assert ask(proxy, Es256("ec").bearer()).status == 401
    head, claims, signature = issuers[0].token().split(".")
    other = encode({"iss": "https://id.example", "aud": "shop", "exp": int(time.time()) + 1000})
    assert ask(proxy, {"Authorization": f"Bearer {head}.{other}.{signature}"}).status == 401
    assert ask(proxy, [("Authorization", f"Bearer {issuers[0].token()}")] * 2).status == 401


def test_claims_decide(token_guarded, issuers):
    proxy = token_guarded(with_token(claims=[("scope", "write"), ("groups", "admin")]))
    good = {"scope": "read write", "groups": ["admin", "ops"]}
    assert ask(proxy, issuers[0].bearer(**good)).status == 200
    # The token is valid; another one would not help with 401.
    for change in ({"scope": "read"}, {"groups": "adm"}, {"groups": None}):
        assert ask(proxy, issuers[0].bearer(**{**good, **change})).status == 403, change


def test_a_token_is_one_condition_among_others(token_guarded, issuers):
    proxy = token_guarded(rule("open", to={"paths": [{"value": "/health"}]}), with_token(to={"paths": [{"value": "/api"}]}))
    assert ask(proxy, target="/health").status == 200
    assert ask(proxy, target="/api").status == 401
    assert ask(proxy, target="/else").status == 403
    assert ask(proxy, issuers[0].bearer(), target="/api").status == 200


def test_a_token_travels_on_unless_it_should_not(token_guarded, issuers, echo):
    bearer = issuers[0].bearer()
    assert ask(token_guarded(), bearer).status == 200
    assert headers(echo.requests[-1], "authorization") == [bearer["Authorization"]]
    assert ask(token_guarded(forward=False), bearer).status == 200
    assert headers(echo.requests[-1], "authorization") == []


def test_another_header_may_carry_it(token_guarded, issuers):
    proxy = token_guarded(header="x-token")
    assert ask(proxy, {"X-Token": issuers[0].token()}).status == 200
    assert ask(proxy, issuers[0].bearer()).status == 401


def test_only_the_listed_algorithms_are_taken(token_guarded, issuers):
    proxy = token_guarded(algorithms=["RS256"])
    assert [ask(proxy, issuer.bearer()).status for issuer in issuers] == [401, 200]


def test_a_key_file_is_watched(token_guarded, issuers):
    proxy = token_guarded()
    other = Es256("new")
    assert ask(proxy, other.bearer()).status == 401
    path = proxy.directory / "jwks.json"
    (proxy.directory / "next").write_text(key_set(other))
    (proxy.directory / "next").rename(path)
    eventually(lambda: ask(proxy, other.bearer()).status == 200)
    assert ask(proxy, issuers[0].bearer()).status == 401
    path.write_text("{}")
    proxy.logs.wait_for(lambda line: "the old ones stay" in line.get("message", ""))
    assert ask(proxy, other.bearer()).status == 200


def test_a_bad_key_file_refuses_the_configuration(guarded, echo, pillion):
    config = http_config(echo.address, access=[with_token()], jwtProviders=[corp()])
    proxy = pillion(http_config(echo.address))
    refused = proxy.reload(config)
    assert refused.status == 422
    assert b"keys of JWT provider `corp`" in refused.body
    assert status(proxy) == 200


class Keys(http.server.ThreadingHTTPServer):
    """Serves a key set."""

    def __init__(self, context: ssl.SSLContext | None = None):
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                self.server.asked += 1
                body = self.server.text.encode()
                self.send_response(self.server.status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        super().__init__(("127.0.0.1", 0), Handler)
        self.text, self.status, self.asked = "{}", 200, 0
        if context:
            self.socket = context.wrap_socket(self.socket, server_side=True)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def __exit__(self, *_):
        self.shutdown()
        self.server_close()


def test_keys_are_fetched_and_kept_while_the_source_fails(guarded, issuers):
    with Keys() as keys:
        keys.status = 500
        url = f"http://127.0.0.1:{keys.server_port}/jwks"
        proxy = guarded(with_token(), jwtProviders=[corp(jwks={"url": url, "refresh": "1s"})])
        refused = ask(proxy, issuers[0].bearer())
        line = proxy.refused(refused, "token_invalid", 401)
        assert line["detail"] == "none of the provider's keys that are here fits it"
        keys.text, keys.status = key_set(*issuers), 200
        eventually(lambda: ask(proxy, issuers[0].bearer()).status == 200)
        for keys.status, keys.text in ((500, ""), (200, "nonsense"), (200, "x" * 1_000_000)):
            asked = keys.asked
            eventually(lambda asked=asked: keys.asked > asked + 1)
            assert ask(proxy, issuers[0].bearer()).status == 200
        other = Es256("new")
        keys.text, keys.status = key_set(other), 200
        eventually(lambda: ask(proxy, other.bearer()).status == 200)


def test_a_token_with_an_unknown_key_brings_the_next_fetch_about(guarded, issuers):
    with Keys() as keys:
        keys.text = key_set(*issuers)
        url = f"http://127.0.0.1:{keys.server_port}/jwks"
        proxy = guarded(with_token(), jwtProviders=[corp(jwks={"url": url, "refresh": "1h"})])
        eventually(lambda: ask(proxy, issuers[0].bearer()).status == 200)
        other = Es256("new")
        keys.text = key_set(*issuers, other)
        eventually(lambda: ask(proxy, other.bearer()).status == 200)
        assert keys.asked == 2


def test_keys_are_fetched_over_tls_from_whom_the_system_trusts(pillion, echo, issuers, tmp_path):
    key, certificate = tmp_path / "k.pem", tmp_path / "c.pem"
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days",
                    "2", "-subj", "/CN=keys", "-addext", "subjectAltName=IP:127.0.0.1", "-addext", "basicConstraints=CA:FALSE",
                    "-keyout", key, "-out", certificate], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with Keys(context) as keys:
        keys.text = key_set(*issuers)
        url = f"https://127.0.0.1:{keys.server_port}/jwks"
        config = http_config(echo.address, access=[with_token()], jwtProviders=[corp(jwks={"url": url, "refresh": "1s"})])
        stranger = pillion(config)
        stranger.logs.wait_for(lambda line: "invalid peer certificate" in line.get("error", ""))
        assert ask(stranger, issuers[0].bearer()).status == 401
        trusted = pillion(config, env={"SSL_CERT_FILE": str(certificate)})
        eventually(lambda: ask(trusted, issuers[0].bearer()).status == 200)


# A change of policy.


OPEN = "/?size=200000&midgate=never"


def streaming(client, proxy):
    """A response that has begun and does not end."""
    client.send_request("GET", OPEN)
    client.read_head()
    client.recv_exact(60_000)
    return client


def is_cut(client) -> bool:
    try:
        while client.fill():
            pass
    except Closed:
        pass
    return client.eof


def with_rules(echo, *rules) -> dict:
    return http_config(echo.address, access=list(rules))


@pytest.mark.parametrize("before", [[], [rule("all")]], ids=["none", "all"])
def test_a_stream_that_is_no_longer_let_in_ends(guarded, connect, echo, before):
    proxy = guarded(*before)
    client = streaming(connect(proxy.address()), proxy)
    proxy.must_reload(with_rules(echo, *before, deny("no", **{"from": {"addresses": ["127.0.0.1"]}})))
    assert is_cut(client)
    line = proxy.access(reason="access_denied")
    assert line["detail"] == "the policy has changed: rule `no` denies it"


def test_a_stream_that_is_still_let_in_goes_on(guarded, connect, echo):
    proxy = guarded(rule("all"))
    client = streaming(connect(proxy.address()), proxy)
    proxy.must_reload(with_rules(echo, rule("all"), deny("no", to={"paths": [{"value": "/admin"}]})))
    proxy.must_reload(with_rules(echo, rule("get", to={"methods": ["GET"], "hostnames": ["app.test"]})))
    echo.open_gate("never")
    client.recv_exact(140_000)
    assert client.get().status == 200, "on the same connection"


def test_a_request_that_waits_for_its_answer_is_refused(guarded, connect, echo):
    proxy = guarded(rule("all"))
    client = connect(proxy.address())
    client.send_request("GET", "/?gate=never")
    echo.wait_heads(1)
    proxy.must_reload(with_rules(echo, rule("post", to={"methods": ["POST"]})))
    assert client.read_response().status == 403


def test_only_the_streams_concerned_end_over_http2(guarded, echo):
    proxy = guarded(rule("all"))
    with dial(proxy.address()) as client:
        stays = client.request(path="/stays?gate=stays")
        waits = client.request(path="/goes?gate=goes")
        flows = client.request(path="/goes?size=200000&midgate=goes")
        client.until(lambda: len(flows.data) >= 60_000, what="the beginning of a response")
        echo.wait_heads(3)
        proxy.must_reload(with_rules(echo, rule("all"), deny("no", to={"paths": [{"value": "/goes"}]})))
        assert client.response(waits).status == 403
        client.expect_rst(flows, Code.INTERNAL_ERROR)
        echo.open_gate("stays")
        assert client.response(stays).status == 200


def test_a_tunnel_that_is_no_longer_let_in_ends(pillion, raw_upstream, connect):
    def switch(connection):
        connection.read_request()
        connection.send("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: chat\r\n\r\nhello")

    upstream = raw_upstream(switch)
    config = http_config(upstream.address, access=[rule("all")])
    proxy = pillion(config)
    client = connect(proxy.address())
    client.send_request("GET", "/chat", {"Connection": "upgrade", "Upgrade": "chat"})
    client.read_head()
    assert client.recv_exact(5) == b"hello"
    proxy.must_reload({**config, "access": [rule("all"), deny("other", to={"paths": [{"value": "/x"}]})]})
    client.send("still here")
    upstream.connection().wait_received(lambda data: data.endswith(b"still here"))
    proxy.must_reload({**config, "access": [deny("no", to={"paths": [{"value": "/chat"}]})]})
    assert is_cut(client)
    assert proxy.access(path="/chat")["reason"] == "access_denied"


def test_a_reload_that_leaves_the_policy_alone_asks_nobody_again(token_guarded, issuers, connect, echo):
    """A token that has expired since then was good when it was asked for."""
    proxy = token_guarded(leeway="0s")
    client = connect(proxy.address())
    client.send_request("GET", OPEN, issuers[0].bearer(exp=int(time.time()) + 2))
    client.read_head()
    client.recv_exact(60_000)
    eventually(lambda: ask(proxy, issuers[0].bearer(exp=int(time.time()))).status == 401)
    config = http_config(echo.address, access=[with_token(), deny("x", to={"methods": ["PUT"]})], jwtProviders=[corp(leeway="0s")])
    proxy.must_reload(config)
    proxy.must_reload({**config, "drain": {"deadline": "7s"}})
    echo.open_gate("never")
    client.recv_exact(140_000)


# TCP.


def echoes(connection):
    while connection.fill():
        connection.send(bytes(connection.buffer))
        connection.buffer.clear()


def test_tcp_connections_are_judged_as_they_come_and_when_the_policy_changes(pillion, raw_upstream, connect):
    upstream = raw_upstream(echoes)
    allow = rule("near", **{"from": {"addresses": ["127.0.0.0/8"]}})
    config = tcp_config(upstream.address)
    proxy = pillion(config)
    first = connect(proxy.address("tcp")).send("a")
    assert first.recv_exact(1) == b"a"
    proxy.must_reload({**config, "access": [allow]})
    first.send("b")
    assert first.recv_exact(1) == b"b"
    proxy.must_reload({**config, "access": [allow, deny("no", **{"from": {"addresses": ["127.0.0.1"]}})]})
    assert is_cut(first)
    line = proxy.access(reason="access_denied")
    assert line["flags"] == "UAEX"
    assert line["detail"].endswith("the policy has changed: rule `no` denies it")
    assert is_cut(connect(proxy.address("tcp")))
    assert len(upstream.connections) == 1, "nobody was connected to for it"
    proxy.must_reload({**config, "access": [allow, deny("no", audit=True)]})
    second = connect(proxy.address("tcp")).send("c")
    assert second.recv_exact(1) == b"c"
    second.half_close()
    second.recv_all()
    proxy.access(detail="audit: rule `no` would deny")
    assert decisions(proxy, listener="tcp", rule="near", decision="allowed") >= 1


# What is in force.


def test_the_effective_configuration_shows_rules_and_providers(token_guarded):
    shown = token_guarded().admin_get("/config").json()
    assert shown["access"][0]["jwt"] == {"provider": "corp", "claims": []}
    assert shown["access"][0]["listeners"] == ["web"]
    assert shown["jwtProviders"][0]["algorithms"] == ["RS256", "ES256", "EdDSA"]
    assert json.dumps(shown)
