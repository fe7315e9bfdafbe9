"""Configurations that many tests start from."""


def http_config(*upstreams: str, http: dict | None = None, listener: dict | None = None, upstream: dict | None = None,
                routes: list[dict] | None = None, timeouts: dict | None = None, **top) -> dict:
    """One HTTP listener `web` on a free port in front of one upstream `app`.

    `timeouts`, which belong to a rule, or `routes` replace the listener's own upstream.
    """
    web = {"name": "web", "address": "127.0.0.1:0", **(listener or {})}
    if http:
        web["http"] = http
    if timeouts is not None:
        routes = [{"name": "all", "rules": [{"backendRefs": [{"name": "app"}], "timeouts": timeouts}]}]
    if routes is None:
        web["upstream"] = "app"
    config = {"listeners": [web]}
    if routes is not None:
        config["routes"] = routes
    config["upstreams"] = [{"name": "app", "endpoints": list(upstreams), **(upstream or {})}]
    # More upstreams come after the one under test.
    config["upstreams"] += top.pop("more_upstreams", [])
    return {**config, **top}


def tcp_config(*upstreams: str, tcp: dict | None = None, listener: dict | None = None, upstream: dict | None = None,
               **top) -> dict:
    """One TCP listener `tcp` on a free port in front of one upstream `app`."""
    entry = {"name": "tcp", "address": "127.0.0.1:0", "protocol": "tcp", "upstream": "app", **(listener or {})}
    if tcp:
        entry["tcp"] = tcp
    return {
        "listeners": [entry],
        "upstreams": [{"name": "app", "endpoints": list(upstreams), **(upstream or {})}],
        **top,
    }
