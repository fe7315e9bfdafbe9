"""A new configuration while traffic flows: what changes, what stays, what is refused."""

import contextlib
import signal
import socket
import threading
import time

import pytest
from support.client import RawClient, fetch
from support.config import http_config, tcp_config
from support.ports import free_port
from support.process import as_yaml
from support.upstream import headers
from support.wait import eventually
from support.wire import Closed


def saying(text: str, **options) -> dict:
    """A configuration whose one listener answers with this text by itself."""
    routes = [{"rules": [{"filters": [{"type": "DirectResponse", "directResponse": {"statusCode": 200, "body": text}}]}]}]
    return http_config("127.0.0.1:9", routes=routes, **options)


def says(proxy, name="web") -> str:
    return fetch(proxy.address(name)).body.decode()


# Triggers.


def test_a_file_renamed_over(pillion):
    proxy = pillion(saying("one"))
    assert says(proxy) == "one"
    for text in ("two", "three"):
        proxy.write(saying(text))
        eventually(lambda text=text: says(proxy) == text)
    assert proxy.generation() == 3


def test_a_file_written_in_place(pillion):
    proxy = pillion(saying("one"))
    for text in ("two", "three"):
        proxy.config_path.write_text(as_yaml(saying(text)))
        eventually(lambda text=text: says(proxy) == text)


def test_a_file_removed_and_written_anew(pillion):
    proxy = pillion(saying("one"))
    proxy.config_path.unlink()
    assert says(proxy) == "one"
    proxy.config_path.write_text(as_yaml(saying("two")))
    eventually(lambda: says(proxy) == "two")


def mount(directory, text: str, version: int):
    """What the kubelet does for a mounted ConfigMap: a new folder, then `..data` swapped onto it."""
    folder = directory / f"..2026_11_22_{version}"
    folder.mkdir()
    (folder / "pillion.yaml").write_text(text)
    temporary = directory / "..data_tmp"
    temporary.symlink_to(folder.name)
    temporary.replace(directory / "..data")
    with contextlib.suppress(FileExistsError):
        (directory / "pillion.yaml").symlink_to("..data/pillion.yaml")


@pytest.mark.parametrize("whole_folder", [False, True])
def test_a_config_map_swapped(pillion, tmp_path, whole_folder):
    directory = tmp_path / "mounted"
    directory.mkdir()
    mount(directory, as_yaml(saying("one")), 1)
    proxy = pillion(None, config_path=directory if whole_folder else directory / "pillion.yaml")
    assert says(proxy) == "one"
    for version, text in enumerate(("two", "three"), 2):
        mount(directory, as_yaml(saying(text)), version)
        eventually(lambda text=text: says(proxy) == text)


def test_sighup(pillion):
    proxy = pillion(saying("one"))
    proxy.write(saying("two"))
    proxy.signal(signal.SIGHUP)
    eventually(lambda: says(proxy) == "two")
    assert fetch(proxy.address()).status == 200


def test_post_reload_answers_after_the_swap(pillion):
    proxy = pillion(saying("one"))
    for number in range(10):
        proxy.write(saying(str(number)))
        reply = proxy.reload()
        assert reply.status == 200
        assert says(proxy) == str(number)
        assert reply.json()["generation"] == proxy.generation()


def test_each_reload_is_one_line_and_counted(pillion):
    proxy = pillion(saying("one"))
    proxy.must_reload(saying("two"))
    line = proxy.logs.find(message="configuration accepted")
    assert int(line["generation"]) == 2
    assert proxy.reload("listeners: nonsense\n").status == 422
    eventually(lambda: proxy.metrics().value("pillion_config_reloads_total", result="rejected") >= 1)
    metrics = proxy.metrics()
    assert metrics.value("pillion_config_generation") == 2
    assert metrics.value("pillion_config_reloads_total", result="accepted") >= 1
    accepted = [line for line in proxy.logs() if line.get("message") == "configuration accepted"]
    assert len(accepted) == 1


def test_a_gauge_tells_whether_what_was_asked_for_is_live(pillion):
    proxy = pillion(saying("one"))
    accepted = lambda: proxy.metrics().value("pillion_config_last_reload_accepted")
    assert accepted() == 1, "the start was"
    assert proxy.reload("listeners: nonsense\n").status == 422
    assert accepted() == 0
    proxy.must_reload(saying("two"))
    assert accepted() == 1


def test_changes_that_don_t_stop_are_live_all_the_same(pillion):
    """A debounce that waits for silence would never fire."""
    proxy = pillion(saying("0"))
    live = set()
    for number in range(1, 200):
        proxy.write(saying(str(number)))
        live.add(says(proxy))
        if len(live) >= 4:
            break
        time.sleep(0.01)
    else:
        raise AssertionError(f"only {sorted(live)} were ever live while changes kept coming")
    proxy.must_reload(saying("end"))
    assert says(proxy) == "end"


def test_other_files_in_the_folder_are_no_change(pillion):
    proxy = pillion(saying("one"))
    for number in range(20):
        (proxy.directory / f"other-{number}").write_text("x")
    proxy.must_reload(saying("two"))
    assert proxy.generation() == 2


def test_a_folder_of_files(pillion, echo, tmp_path):
    directory = tmp_path / "conf"
    directory.mkdir()
    (directory / "10-listeners.yaml").write_text(
        "admin: { address: 127.0.0.1:0 }\nlisteners: [{ name: web, address: 127.0.0.1:0, upstream: app }]\n")
    (directory / "20-app.yaml").write_text(f"upstreams: [{{ name: app, endpoints: ['{echo.address}'] }}]\n")
    proxy = pillion(None, config_path=directory)
    assert fetch(proxy.address()).status == 200
    (directory / "30-more.yaml").write_text("listeners: [{ name: more, address: 127.0.0.1:0, upstream: app }]\n")
    assert fetch(proxy.address("more")).status == 200
    (directory / "30-more.yaml").unlink()
    eventually(lambda: "more" not in proxy.listeners())


# Refusals.

BAD_FILES = {
    "not yaml": "listeners: [\n",
    "unknown key": "listeners: [{ address: '127.0.0.1:0', upstraem: app }]\nupstreams: [{ name: app, endpoints: [] }]\n",
    "dangling name": "listeners: [{ address: '127.0.0.1:0', upstream: nobody }]\n",
    "impossible value": "listeners: [{ address: '127.0.0.1:99999', upstream: app }]\n",
    "empty": "",
    "binary": "\x00\x01\x02",
    "unset variable": "listeners: [{ address: '${NOT_SET_ANYWHERE}', upstream: app }]\n",
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_bad_file_is_refused_and_the_last_good_one_serves_on(pillion, name):
    proxy = pillion(saying("good"))
    client = RawClient(proxy.address())
    proxy.config_path.write_text(BAD_FILES[name])
    reply = proxy.reload()
    if name == "empty":
        # Nothing at all may also be read as a configuration without listeners.
        if reply.status == 200:
            return
    assert reply.status == 422, reply.body
    assert b"pillion.yaml" in reply.body
    proxy.logs.find(message="configuration rejected")
    assert client.get("/").body == b"good"
    client.close()
    assert says(proxy) == "good"
    assert proxy.generation() == 1
    ready = proxy.admin_get("/readyz?verbose")
    assert ready.status == 200
    assert b"pillion.yaml" in ready.body, ready.body
    eventually(lambda: proxy.metrics().value("pillion_config_reloads_total", result="rejected") >= 1)
    # A good one makes good.
    proxy.must_reload(saying("better"))
    assert says(proxy) == "better"
    assert b"pillion.yaml" not in proxy.admin_get("/readyz?verbose").body


def test_every_problem_is_told(pillion):
    proxy = pillion(saying("good"))
    reply = proxy.reload("""listeners:
  - address: 127.0.0.1:0
    upstream: nobody
  - address: nonsense
    upstraem: app
upstreams:
  - name: app
    endpoints: ['127.0.0.1:1']
    balancer: guesswork
""")
    assert reply.status == 422
    text = reply.body.decode()
    for word in ("nobody", "nonsense", "upstraem", "guesswork"):
        assert word in text, text


def test_an_address_in_use_is_refused_as_a_whole(pillion, echo):
    proxy = pillion(saying("good"))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        config = saying("bad")
        config["listeners"].append({"name": "more", "address": "127.0.0.1:%d" % taken.getsockname()[1]})
        reply = proxy.reload(config)
        assert reply.status == 422, reply.body
        assert says(proxy) == "good"
        assert proxy.generation() == 1


# What changes and what stays.


def test_a_keep_alive_connection_gets_the_new_routes(pillion, connect):
    proxy = pillion(saying("one"))
    client = connect(proxy.address())
    for text in ("one", "two", "three"):
        proxy.must_reload(saying(text))
        assert client.get("/").body == text.encode()


def test_a_request_in_flight_ends_as_it_began(pillion, echo, connect):
    proxy = pillion(http_config(echo.address))
    client = connect(proxy.address())
    client.send_request("GET", "/held?gate=g")
    echo.wait_heads(1)
    proxy.must_reload(saying("new"))
    echo.open_gate("g")
    assert client.read_response().json()["target"] == "/held?gate=g"
    assert client.get("/").body == b"new"


def test_listeners_come_and_go(pillion, echo, connect):
    proxy = pillion(saying("one"))
    web = proxy.address()
    config = saying("one")
    config["listeners"].append({"name": "more", "address": "127.0.0.1:0"})
    proxy.must_reload(config)
    more = proxy.address("more")
    assert says(proxy, "more") == "one"
    assert proxy.address() == web
    kept, idle = connect(web), connect(more)
    assert kept.get("/").status == 200 and idle.get("/").status == 200
    proxy.must_reload(saying("one"))

    def refused():
        try:
            fetch(more)
        except (ConnectionError, Closed):
            return True

    eventually(refused, "the removed listener to be closed")
    # An idle connection of it is closed, one of another listener is not.
    idle.expect_closed()
    assert kept.get("/").status == 200


def test_a_removed_listener_drains(pillion, echo, connect):
    """A request that runs on it ends well, and its connection with it."""
    config = http_config(echo.address)
    config["listeners"].append({"name": "more", "address": "127.0.0.1:0", "upstream": "app"})
    proxy = pillion(config)
    client = connect(proxy.address("more"))
    client.send_request("GET", "/held?gate=g")
    echo.wait_heads(1)
    proxy.must_reload(http_config(echo.address))
    echo.open_gate("g")
    response = client.read_response()
    assert response.status == 200
    assert "close" in response.tokens("connection")
    client.expect_closed()


def test_a_changed_listener_keeps_its_socket_and_connections(pillion, echo, connect):
    port = free_port()
    listener = {"address": f"127.0.0.1:{port}"}
    proxy = pillion(http_config(echo.address, listener=listener))
    client = connect(proxy.address())
    assert client.get("/").status == 200
    proxy.must_reload(http_config(echo.address, listener=listener, http={"via": False, "maxHeadSize": "8KiB"}))
    account = client.get("/").json()
    assert headers(account, "via") == [], "the new settings hold for the next request"
    # The same socket under another name.
    proxy.must_reload(http_config(echo.address, listener={**listener, "name": "renamed"}, http={"via": False}))
    assert proxy.port("renamed") == port
    assert client.get("/").status == 200
    assert fetch(proxy.address("renamed"), "GET", "/fresh").status == 200
    assert proxy.access(path="/fresh")["listener"] == "renamed"


def test_a_listener_moves_to_another_address(pillion):
    proxy = pillion(saying("one"))
    old = proxy.address()
    new = f"127.0.0.1:{free_port()}"
    proxy.must_reload(saying("two", listener={"address": new}))
    eventually(lambda: proxy.listeners()["web"] == new)
    assert says(proxy) == "two"

    def refused():
        try:
            fetch(old)
        except (ConnectionError, Closed):
            return True

    eventually(refused)


def test_a_listener_changes_its_protocol(pillion, echo):
    port = free_port()
    proxy = pillion(http_config(echo.address, listener={"address": f"127.0.0.1:{port}"}))
    assert headers(fetch(proxy.address()).json(), "via")
    proxy.must_reload(tcp_config(echo.address, listener={"address": f"127.0.0.1:{port}", "name": "web"}))

    def opaque():
        return not headers(fetch(proxy.address()).json(), "via")

    eventually(opaque)


def test_an_unchanged_upstream_keeps_its_pool(pillion, echo, connect):
    proxy = pillion(http_config(echo.address), env={"PILLION_WORKERS": "1"})
    client = connect(proxy.address())
    assert client.get("/").json()["connection"] == 0
    for number in range(5):
        routes = [{"name": f"r{number}", "rules": [{"backendRefs": [{"name": "app"}]}]}]
        proxy.must_reload(http_config(echo.address, routes=routes, more_upstreams=[
            {"name": f"other-{number}", "endpoints": ["127.0.0.1:9"]}]))
        assert client.get("/").json()["connection"] == 0
    assert len(echo.connections) == 1


def test_a_changed_upstream_takes_over(pillion, echo_upstream, connect):
    one, two = echo_upstream("one"), echo_upstream("two")
    proxy = pillion(http_config(one.address))
    client = connect(proxy.address())
    assert client.get("/").json()["server"] == "one"
    proxy.must_reload(http_config(two.address))
    assert client.get("/").json()["server"] == "two"
    eventually(lambda: one.open_connections() == 0, "connections to the endpoint that left to be closed")


def test_an_endpoint_added_leaves_the_others_connections(pillion, echo_upstream, connect):
    one, two = echo_upstream("one"), echo_upstream("two")
    proxy = pillion(http_config(one.address), env={"PILLION_WORKERS": "1"})
    client = connect(proxy.address())
    assert client.get("/").status == 200
    proxy.must_reload(http_config(one.address, two.address, upstream={"balancer": "roundRobin"}))
    servers = {client.get("/").json()["server"] for _ in range(10)}
    assert servers == {"one", "two"}


def test_the_admin_address_stays_reachable(pillion):
    proxy = pillion(saying("one"))
    for number in range(20):
        assert proxy.reload(saying(str(number))).status == 200
    assert proxy.admin_get("/livez").status == 200


def test_memory_and_descriptors_don_t_grow_with_reloads(pillion, echo):
    proxy = pillion(http_config(echo.address))

    def reload(number):
        config = http_config(echo.address, more_upstreams=[
            {"name": f"other-{number}", "endpoints": ["127.0.0.1:9"]}])
        config["listeners"].append({"name": f"l{number}", "address": "127.0.0.1:0", "upstream": f"other-{number}"})
        proxy.must_reload(config)

    for number in range(20):
        reload(number)
    memory, descriptors = proxy.rss(), proxy.descriptors()
    for number in range(20, 120):
        reload(number)
    eventually(lambda: proxy.descriptors() <= descriptors + 2, "descriptors of old listeners given back")
    assert proxy.rss() - memory < 8 * 1024 * 1024


# Under load.


class Busy:
    """Keep-alive connections that ask again and again; a failure of any kind is kept."""

    def __init__(self, address: str, connections: int, threads: int = 4):
        self.stopping = threading.Event()
        self.failures: list[str] = []
        self.count = 0
        self.clients = [RawClient(address) for _ in range(connections)]
        for client in self.clients:
            client.record = False
        share = connections // threads
        self.threads = [threading.Thread(target=self._run, args=(self.clients[n * share:(n + 1) * share],), daemon=True)
                        for n in range(threads)]
        for thread in self.threads:
            thread.start()

    def _run(self, clients):
        try:
            while not self.stopping.is_set():
                for client in clients:
                    client.send(b"GET /busy?size=100 HTTP/1.1\r\nHost: app.test\r\n\r\n")
                for client in clients:
                    response = client.read_response()
                    if response.status != 200 or response.tokens("connection"):
                        self.failures.append(str(response))
                    self.count += 1
        except (Closed, OSError, AssertionError) as error:
            self.failures.append(repr(error))

    def stop(self) -> int:
        self.stopping.set()
        for thread in self.threads:
            thread.join(30)
        for client in self.clients:
            client.close()
        assert not self.failures, self.failures[:5]
        return self.count


def reload_under_load(pillion, echo, seconds: int):
    """20 reloads a second that change routes, upstreams and listeners under 64 busy connections."""

    def config(number: int) -> dict:
        routes = [{"name": f"r{number}", "rules": [
            {"matches": [{"path": {"value": f"/{number}"}}],
             "filters": [{"type": "DirectResponse", "directResponse": {"statusCode": 200, "body": str(number)}}]},
            {"backendRefs": [{"name": "app"}]}]}]
        value = http_config(echo.address, routes=routes, http={"via": number % 2 == 0}, more_upstreams=[
            {"name": f"other-{number}", "endpoints": ["127.0.0.1:9"]}])
        if number % 3:
            value["listeners"].append({"name": f"extra-{number % 3}", "address": "127.0.0.1:0"})
        return value

    proxy = pillion(config(0))
    busy = Busy(proxy.address(), 64)
    eventually(lambda: busy.count > 64)
    start = time.monotonic()
    for number in range(1, seconds * 20 + 1):
        # The rate is the point here, so this one keeps to the clock.
        time.sleep(max(0.0, start + number / 20 - time.monotonic()))
        reply = proxy.reload(config(number))
        assert reply.status == 200, reply.body
        assert fetch(proxy.address(), "GET", f"/{number}").body == str(number).encode()
    assert busy.stop() > 64
    assert proxy.metrics().value("pillion_config_reloads_total", result="accepted") >= seconds * 20
    replies = proxy.metrics().value("pillion_http_local_replies_total", reason="direct_response")
    assert proxy.metrics().reasons() == ({"direct_response": replies} if replies else {}), "nothing failed"


def test_reloads_under_load(pillion, echo):
    reload_under_load(pillion, echo, seconds=3)


@pytest.mark.long
def test_twenty_reloads_a_second_for_ten_seconds(pillion, echo):
    reload_under_load(pillion, echo, seconds=10)


def test_endpoints_swapped_under_load(pillion, echo_upstream):
    """Every reload moves all traffic from one upstream to the other; requests in flight end well."""
    one, two = echo_upstream("one"), echo_upstream("two")
    proxy = pillion(http_config(one.address))
    busy = Busy(proxy.address(), 16)
    for number in range(30):
        proxy.must_reload(http_config((one, two)[number % 2].address))
    assert busy.stop() > 16
    assert one.heads and two.heads


def test_variables_come_from_the_environment(pillion):
    proxy = pillion(saying("${WORD} ${UNSET_WORD:-default} $${WORD}"), env={"WORD": "given"})
    assert says(proxy) == "given default ${WORD}"
