# What a person does here. `make` alone lists it.

VENV ?= .venv
CARGO ?= cargo
TARGET := $(or $(CARGO_TARGET_DIR),target)
DENY_VERSION := 0.20.2
# pytest's workers; every test takes its own ports.
JOBS ?= 2

# The program that the tests drive.
export PILLION_BIN ?= $(abspath $(TARGET))/quick/pillion
# What the benchmark runs beside the proxies; one of the tests runs the benchmark.
export PILLION_PROGRAMS ?= $(abspath $(TARGET))/counted/examples

COMPARE = $(VENV)/bin/python benches/compare

.DEFAULT_GOAL := help
.PHONY: help demo build setup test test-rust test-peers test-long bench bench-quick \
	bench-docs bench-resilience bench-scrape bench-tracing bench-instructions bench-micro bench-setup lint fmt deny

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12

demo: ## the whole thing on loopback, with real requests; needs Rust and a C compiler
	$(CARGO) run --locked --profile quick -- demo

build: ## the program as it is shipped, link-time optimised: target/release/pillion
	$(CARGO) build --locked --release

setup: ## what the tests need: peers from Debian's packages, Python's from PyPI
	@VENV=$(VENV) tests/setup

test: setup test-rust test-peers bench-instructions ## every test, against real peers

test-rust:
	$(CARGO) test --locked

test-peers:
	$(CARGO) build --locked --profile quick
	$(CARGO) build --locked --profile counted --examples
	$(VENV)/bin/pytest tests -n $(JOBS)

test-long: setup ## soaks, long rotations, wide seeds: before an issue is closed
	$(CARGO) test --locked -- --ignored
	$(CARGO) build --locked --profile quick
	$(VENV)/bin/pytest tests -m long

bench: BENCH_SET ?= benches/results/$(shell date +%F)
bench: bench-setup ## Pillion beside nginx, HAProxy and Envoy: BENCH_ROUNDS (5) of BENCH_SECONDS (3), BENCH_SCENARIOS (all)
	$(CARGO) build --locked --release --bin pillion
	$(CARGO) build --locked --release --examples
	$(COMPARE) run --pillion $(TARGET)/release/pillion --programs $(TARGET)/release/examples --out $(BENCH_SET)
	$(COMPARE) plot $(BENCH_SET)

bench-quick: ## the same in one round of a second, kept nowhere: does it still work
	BENCH_ROUNDS=1 BENCH_SECONDS=1 BENCH_HELD=500 BENCH_BURST=1000 BENCH_REST=1 BENCH_STARTS=5 \
	  $(MAKE) bench BENCH_SET=$(TARGET)/bench-quick

bench-resilience: bench-setup ## endpoints that fail, Pillion beside Envoy: benches/results/DATE/resilience.json
	$(CARGO) build --locked --release --bin pillion
	$(VENV)/bin/python benches/resilience --pillion $(TARGET)/release/pillion --document --out benches/results/$(shell date +%F)/resilience.json

bench-tracing: bench-setup setup ## what traces and metrics cost a request, beside none and beside Envoy
	$(CARGO) build --locked --release --bin pillion --examples
	$(VENV)/bin/python benches/tracing --pillion $(TARGET)/release/pillion --programs $(TARGET)/release/examples \
		--document --out benches/results/$(shell date +%F)/tracing.json

bench-scrape: setup ## a scrape of 10,000 series, and p99 beside it
	$(CARGO) build --locked --release --bin pillion
	$(CARGO) build --locked --release --examples
	$(VENV)/bin/python benches/scrape --pillion $(TARGET)/release/pillion --programs $(TARGET)/release/examples

bench-docs: ## puts a set of results, BENCH_SET=benches/results/DATE, into docs/performance.md
	$(COMPARE) document $(BENCH_SET)

bench-instructions: ## instructions an exchange beside those stored; BLESS=1 stores them
	@command -v valgrind >/dev/null || $(MAKE) setup
	BLESS=$(BLESS) $(CARGO) bench --locked --profile counted --bench instructions

bench-micro: ## criterion: the hot parts one by one
	$(CARGO) bench --locked

bench-setup: setup
	@cmp -s benches/compare/requirements.txt $(VENV)/bench.txt || { \
	  $(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps \
	    --requirement benches/compare/requirements.txt \
	  && cp benches/compare/requirements.txt $(VENV)/bench.txt; }

lint: deny ## format, clippy, dependencies, documentation: warnings are errors
	$(CARGO) fmt --check
	$(CARGO) clippy --locked --all-targets -- -D warnings
	$(CARGO) deny --locked check bans licenses sources
	! grep -rln 'allow(unsafe_code)' src benches --include='*.rs' | grep -vx src/sys.rs
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --no-deps --document-private-items

fmt: ## format in place
	$(CARGO) fmt

deny:
	@$(CARGO) deny --version 2>/dev/null | grep -qx 'cargo-deny $(DENY_VERSION)' \
	  || env -u CARGO_TARGET_DIR $(CARGO) install cargo-deny --locked --version $(DENY_VERSION)
