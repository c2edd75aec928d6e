# Two commands: `make run` serves the demo, `make test` checks everything.

ADDR ?= 127.0.0.1:7676
ORIGIN := 127.0.0.1:7677
SHELL := /bin/bash

.PHONY: run test needs build dist guests lint unit deny audit tested test-chart test-kit bench bench-peers bench-http bench-telemetry bench-scaling bench-growth bench-neighbours fuzz soak test-soak figures image

run: needs build
	@manifests/demo/run.sh $(ADDR) $(ORIGIN)

build:
	cargo build --locked --release --features tools --bin sidelight --bin demo-origin

# A C compiler and cmake build zlib and ring; installed when that is possible, named otherwise.
needs:
	@missing=(); \
	command -v cmake >/dev/null || missing+=(cmake); \
	command -v cc >/dev/null || missing+=(gcc libc6-dev); \
	command -v c++ >/dev/null || missing+=(g++); \
	if (( $${#missing[@]} )); then \
	  if [[ $$(id -u) == 0 ]] && command -v apt-get >/dev/null; then \
	    apt-get update -qq && apt-get install -y -qq "$${missing[@]}"; \
	  elif sudo -n true 2>/dev/null && command -v apt-get >/dev/null; then \
	    sudo apt-get update -qq && sudo apt-get install -y -qq "$${missing[@]}"; \
	  else \
	    echo "please install: $${missing[*]}" >&2; exit 1; \
	  fi; \
	fi
	@command -v cargo >/dev/null || { echo "please install Rust (rustup)" >&2; exit 1; }

test: needs guests lint deny unit test-soak test-chart test-kit

guests:
	tests/guests/build.sh all

lint:
	cargo fmt --check
	cargo clippy --locked --all-targets --features tools -- -D warnings

unit:
	cargo test --locked

# Licences, sources and crates that must not be there; `make audit` asks for advisories, which needs the network.
deny:
	tests/deny.sh

audit:
	tests/deny.sh advisories

# The binary of the tests below: the one that cargo test makes, unless SIDELIGHT_BIN names another.
TESTED = SIDELIGHT_BIN=$${SIDELIGHT_BIN:-$(CURDIR)/target/debug/sidelight}

tested:
	[[ -n "$$SIDELIGHT_BIN" ]] || cargo test --locked --no-run --test it

# A minute of mixed load with faults, swaps and misbehaviour; `make soak` is half an hour, of what is shipped.
test-soak: tested
	$(TESTED) benches/soak.py --minutes 1

soak: needs guests
	benches/soak.py

# The chart: rendered, checked against schemas and policies, and really run.
test-chart: tested
	$(TESTED) tests/chart/run.sh
	$(TESTED) tests/cluster/run.sh

# The image, the systemd unit, the compose file, the dashboard, the load kit.
test-kit: tested
	$(TESTED) tests/kit/run.sh

# What the image holds: link-time optimisation, no symbols. Takes several times as long as `make build`.
dist: needs
	cargo build --locked --profile dist --bin sidelight

image: dist
	deploy/image/build.sh --binary target/dist/sidelight

bench: needs
	tests/guests/build.sh rust
	cargo bench --bench guest
	cargo bench --bench allocations

figures: needs
	tests/guests/build.sh rust
	cargo bench --bench figures

bench-telemetry: needs
	tests/guests/build.sh rust
	benches/telemetry.sh

bench-scaling: needs
	tests/guests/build.sh rust
	benches/scaling.sh

# One to 10,000 connections, to 2,000 guests, to 1,000 services.
bench-growth: needs
	tests/guests/build.sh rust
	benches/growth.py --write

# What a service notices of another's misbehaviour.
bench-neighbours: needs
	tests/guests/build.sh rust
	benches/neighbours.py --write

# Every fuzz target for so many seconds; what is built for them is instrumented, and takes some minutes at first.
FUZZ_SECONDS = 20
fuzz: needs
	fuzz/run $(FUZZ_SECONDS)

# Beside Viceroy, native pingora, nginx, varnish and Envoy: half an hour, and at the first run as long again to build and fetch them.
bench-peers: needs guests
	benches/peers.py --write

# Those that need nothing fetched, and less of it.
bench-http: needs
	tests/guests/build.sh rust
	benches/peers.py hello small hit --peers native,nginx,varnish
