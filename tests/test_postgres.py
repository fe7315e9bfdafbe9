"""PostgreSQL through a TCP listener, by its own clients."""

import subprocess

import pytest
from support.config import tcp_config
from support.peers import Postgres, find


@pytest.fixture(scope="module")
def database():
    with Postgres() as postgres:
        yield postgres


@pytest.fixture
def run(pillion, database):
    proxy = pillion(tcp_config(database.address))
    ends = ["-h", "127.0.0.1", "-p", str(proxy.port("tcp")), "-U", "tester"]

    def call(program, *arguments, stdin: str = ""):
        return subprocess.run([find(program), *ends, *arguments, "postgres"], input=stdin, text=True, timeout=60,
                              check=True, capture_output=True).stdout

    call.proxy = proxy
    return call


def test_psql(run):
    assert run("psql", "-Atc", "select 6 * 7").strip() == "42"
    # A megabyte each way.
    assert run("psql", "-Atc", "select length(repeat('x', 1000000))").strip() == "1000000"
    rows = run("psql", "-Atc", "select i, md5(i::text) from generate_series(1, 20000) i").splitlines()
    assert len(rows) == 20_000 and rows[0] == "1|c4ca4238a0b923820dcc509a6f75849b"
    copied = "".join(f"{number}\n" for number in range(50_000))
    out = run("psql", "-Atq", stdin=f"create temp table t (i int);\ncopy t from stdin;\n{copied}\\.\nselect sum(i) from t;\n")
    assert out.strip() == str(sum(range(50_000)))


def test_pgbench(run):
    run("pgbench", "-i", "-q", "-s", "1")
    out = run("pgbench", "-c", "8", "-j", "2", "-t", "25")
    assert "number of transactions actually processed: 200/200" in out
    out = run("pgbench", "-c", "4", "-t", "10", "-S", "-C", "-M", "extended")
    assert "number of transactions actually processed: 40/40" in out
    lines = run.proxy.access_log()
    assert lines and all(not line["reason"] for line in lines), lines
