"""Trace contexts as the next hop sees them, and the trace id of every line of the access log."""

import json
import re

import pytest
from support.client import fetch
from support.config import http_config
from support.fleet import Fleet, answers
from support.ports import free_port
from support.upstream import header

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SAMPLED, UNSAMPLED = f"00-{TRACE}-{SPAN}-01", f"00-{TRACE}-{SPAN}-00"
TRACEPARENT = re.compile(r"00-([0-9a-f]{32})-([0-9a-f]{16})-0([0-3])")
#: Where spans go that no test here asks for.
NOWHERE = {"endpoint": f"http://127.0.0.1:{free_port()}"}


@pytest.fixture(scope="module")
def shared(shared_pillion, shared_echo):
    """`shared(**tracing)`: the proxy with that configuration, one for all tests that ask for the same."""
    proxies = {}

    def start(**tracing):
        key = json.dumps(tracing)
        if key not in proxies:
            config = http_config(f"127.0.0.1:{shared_echo.port}", tracing=tracing, otlp=NOWHERE)
            proxies[key] = shared_pillion(config)
        return proxies[key]

    return start


def sent(proxy, *headers, target="/") -> dict:
    """What the upstream got of a request with these headers."""
    return json.loads(fetch(proxy.address(), target=target, headers=headers).body)


def context(account) -> tuple[str, str, bool]:
    match = TRACEPARENT.fullmatch(header(account, "traceparent"))
    return match[1], match[2], match[3] in "13"


def test_a_trace_begins_here(shared):
    account = sent(shared(), target="/begins")
    trace, span, sampled = context(account)
    assert sampled and int(trace, 16) and int(span, 16)
    line = shared().access(path="/begins")
    assert line["trace_id"] == trace and line["span_id"] != span, "the upstream's parent is the attempt"


def test_what_is_not_sampled_is_told_so_and_has_an_id(shared):
    proxy = shared(sampling="0%")
    trace, _, sampled = context(sent(proxy, target="/unsampled"))
    line = proxy.access(path="/unsampled")
    assert not sampled and line["trace_id"] == trace and line["span_id"] is None


@pytest.mark.parametrize("sampling", ["0%", "100%"])
@pytest.mark.parametrize("parent", [SAMPLED, UNSAMPLED], ids=["sampled", "unsampled"])
def test_the_sender_s_decision_holds(shared, sampling, parent):
    account = sent(shared(sampling=sampling), ("traceparent", parent), ("tracestate", "a=1,b=2"))
    trace, span, sampled = context(account)
    assert trace == TRACE and sampled == (parent == SAMPLED)
    assert header(account, "tracestate") == "a=1,b=2"
    # Who takes no part in a trace stays out of it.
    assert (span == SPAN) == (parent == UNSAMPLED)


def test_always_and_never_are_asked_nothing(shared):
    trace, span, sampled = context(sent(shared(sampling="always"), ("traceparent", UNSAMPLED)))
    assert (trace, sampled) == (TRACE, True) and span != SPAN
    never = shared(sampling="never")
    assert header(sent(never, ("traceparent", SAMPLED)), "traceparent") == SAMPLED, "it goes on as it came"
    assert not context(sent(never))[2]


def test_flags_that_are_not_ours_go_on(shared):
    for flags in ("03", "01"):
        account = sent(shared(), ("traceparent", f"00-{TRACE}-{SPAN}-{flags}"))
        assert header(account, "traceparent").endswith(f"-{flags}")


def test_an_id_of_our_own_is_called_random(shared):
    """Trace Context level 2, section 3.2.2.5."""
    assert header(sent(shared()), "traceparent").endswith("-03")
    assert header(sent(shared(sampling="0%")), "traceparent").endswith("-02")


@pytest.mark.parametrize("broken", [
    "garbage", f"00-{TRACE}-{SPAN}", f"ff-{TRACE}-{SPAN}-01", f"00-{'0' * 32}-{SPAN}-01", f"00-{TRACE.upper()}-{SPAN}-01",
    f"00-{TRACE}-{SPAN}-01-x", "",
])
def test_a_broken_context_is_none(shared, broken):
    account = sent(shared(), ("traceparent", broken), ("tracestate", "a=1"))
    trace, _, sampled = context(account)
    assert trace != TRACE and sampled
    assert header(account, "tracestate") is None, "it belonged to what was broken"


def test_a_tracestate_stays_with_its_own_trace(shared):
    b3, state = ("b3", f"{TRACE}-{SPAN}-1"), ("tracestate", "a=1")
    account = sent(shared(propagators=["b3"]), b3, ("traceparent", SAMPLED), state)
    assert (header(account, "traceparent"), header(account, "tracestate")) == (SAMPLED, "a=1"), "not spoken here"
    account = sent(shared(propagators=["b3", "tracecontext"]), b3, ("traceparent", f"00-{'1' * 32}-{SPAN}-01"), state)
    assert context(account)[0] == TRACE and header(account, "tracestate") is None, "of another trace"


def test_baggage_is_passed_on(shared):
    assert header(sent(shared(), ("baggage", "tenant=a,user=b")), "baggage") == "tenant=a,user=b"


@pytest.mark.parametrize("headers", [
    [("b3", f"{TRACE}-{SPAN}-1")],
    [("b3", f"{TRACE}-{SPAN}-1-0000000000000001")],
    [("X-B3-TraceId", TRACE), ("X-B3-SpanId", SPAN), ("X-B3-Sampled", "1"), ("X-B3-ParentSpanId", "0" * 15 + "1")],
], ids=["single", "single with parent", "multi"])
def test_b3_is_read_and_all_forms_are_written(shared, headers):
    account = sent(shared(propagators=["b3", "b3multi", "tracecontext"]), *headers)
    trace, span, sampled = context(account)
    assert (trace, sampled) == (TRACE, True) and span != SPAN
    assert header(account, "b3") == f"{TRACE}-{span}-1"
    multi = [header(account, f"x-b3-{name}") for name in ["traceid", "spanid", "sampled", "parentspanid", "flags"]]
    assert multi == [TRACE, span, "1", None, None]


def test_b3_may_leave_things_open(shared):
    proxy = shared(propagators=["b3"])
    short = header(sent(proxy, ("b3", f"{TRACE[16:]}-{SPAN}")), "b3")
    assert short.startswith("0" * 16 + TRACE[16:]) and short.endswith("-1"), "64 bits, and we decide"
    assert header(sent(proxy, ("b3", "0")), "b3") == "0", "a decision alone goes on as it came"
    assert header(sent(proxy, ("b3", "1")), "b3").endswith("-1"), "and makes a trace begin"
    assert header(sent(proxy, ("b3", f"{TRACE}-{SPAN}-d")), "b3").endswith("-d"), "debug"
    assert header(sent(proxy, ("traceparent", SAMPLED)), "traceparent") == SAMPLED, "not spoken here"


@pytest.mark.parametrize("spoken", ["b3", "b3multi"])
@pytest.mark.parametrize("decision", "01")
def test_one_form_of_b3_reads_the_other_and_keeps_it_true(shared, spoken, decision):
    proxy = shared(propagators=[spoken])
    if spoken == "b3":
        came = [("X-B3-TraceId", TRACE), ("X-B3-SpanId", SPAN), ("X-B3-Sampled", decision)]
    else:
        came = [("b3", f"{TRACE}-{SPAN}-{decision}")]
    account = sent(proxy, *came)
    trace, span, sampled = header(account, "b3").split("-")
    assert (trace, sampled) == (TRACE, decision) and (span == SPAN) == (decision == "0")
    multi = [header(account, f"x-b3-{name}") for name in ["traceid", "spanid", "sampled"]]
    assert multi == [trace, span, sampled]


def test_the_first_form_that_is_there_is_read(shared):
    proxy = shared(propagators=["tracecontext", "b3"])
    other = "1" * 32
    account = sent(proxy, ("b3", f"{other}-{SPAN}-0"), ("traceparent", SAMPLED))
    assert context(account)[0] == TRACE and header(account, "b3").startswith(TRACE)


def test_a_rule_has_a_mind_of_its_own(pillion, echo):
    backend = [{"name": "app"}]
    rules = [
        {"matches": [{"path": {"value": "/healthz"}}], "tracing": {"sampling": "never"}, "backendRefs": backend},
        {"matches": [{"path": {"value": "/pay"}}], "tracing": {"sampling": "always"}, "backendRefs": backend},
        {"backendRefs": backend},
    ]
    address = f"127.0.0.1:{echo.port}"
    proxy = pillion(http_config(address, routes=[{"rules": rules}], tracing={"sampling": "0%"}, otlp=NOWHERE))
    assert [context(sent(proxy, target=target))[2] for target in ["/healthz", "/pay", "/"]] == [False, True, False]
    assert context(sent(proxy, ("traceparent", SAMPLED), target="/healthz")) == (TRACE, SPAN, True)
    assert context(sent(proxy, ("traceparent", SAMPLED)))[2]


def test_without_tracing_nothing_is_touched_and_every_line_has_an_id(pillion, echo):
    proxy = pillion(http_config(f"127.0.0.1:{echo.port}"))
    account = sent(proxy, target="/none")
    assert [header(account, name) for name in ["traceparent", "tracestate", "b3"]] == [None] * 3
    line = proxy.access(path="/none")
    assert line["trace_id"] == line["request_id"].replace("-", ""), "which stays the same at every hop"
    account = sent(proxy, ("traceparent", SAMPLED), ("tracestate", "a=1"), target="/some")
    assert (header(account, "traceparent"), header(account, "tracestate")) == (SAMPLED, "a=1")
    assert proxy.access(path="/some")["trace_id"] == TRACE
    assert fetch(proxy.address(), target="/b3", headers=[("b3", f"{TRACE}-{SPAN}-0")]).status == 200
    assert proxy.access(path="/b3")["trace_id"] == TRACE
    fetch(proxy.address(), target="/odd", headers=[("x-request-id", "mine")])
    assert re.fullmatch("[0-9a-f]{32}", proxy.access(path="/odd")["trace_id"])


def test_a_retry_is_told_of_its_own_attempt(pillion):
    with Fleet(answers(503), answers(), count=2) as app:
        calm = {"balancer": "roundRobin", "breaker": "off"}
        proxy = pillion(http_config(*app.addresses, tracing={}, otlp=NOWHERE, upstream=calm))
        assert fetch(proxy.address()).status == 200
        first, second = (TRACEPARENT.fullmatch(attempt.header("traceparent")) for attempt in app.attempts)
        assert first[1] == second[1] and first[2] != second[2]


def test_reload_turns_it_on_and_off(pillion, echo):
    plain = http_config(f"127.0.0.1:{echo.port}")
    proxy = pillion(plain)
    assert header(sent(proxy), "traceparent") is None
    proxy.must_reload({**plain, "tracing": {}, "otlp": NOWHERE})
    assert header(sent(proxy), "traceparent")
    proxy.must_reload({**plain, "tracing": {"enabled": False}})
    assert header(sent(proxy), "traceparent") is None
