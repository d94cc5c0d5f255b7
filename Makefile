# `make run` starts Rollcall for trying it out, `make test` checks everything. `make help` lists the rest.

.PHONY: help run test chaos bench setup web fmt lint
.DEFAULT_GOAL := help

# The binary that `cargo test` has built, for the tests that are not Rust.
BINARY := $(or $(CARGO_TARGET_DIR),$(CURDIR)/target)/debug/rollcall
# Where the scenarios of failure leave what they have shown, and how long all of them may take.
FAILURES := $(or $(CARGO_TARGET_DIR),$(CURDIR)/target)/failures
CHAOS_MOST := 70m
# What is measured: which scenarios (all if none is named), how large (tiny, small, full), over which carriers of WebSockets, and whether
# docs/benchmarks.md is written; and how long all of it may take.
SCENARIOS :=
SIZE := small
CARRIER := actix-ws,direct
WRITE :=
BENCH_MOST := 60m

help: ## This list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /  make \1\t/' | expand -t 16

run: ## Build and start in development mode, with presence in memory unless ROLLCALL__REDIS__URL is set
	cargo run --locked -- serve --dev

setup: ## Get what the tests need beside Rust
	@script/setup

test: setup ## All tests: Rust against real Redis and nginx, the client, both in a browser, the OpenAPI document against the server
	cargo test --locked --workspace --features rollcall/test-hooks
	ROLLCALL_TEST_REDIS=cluster cargo test --locked --workspace --features rollcall/test-hooks --test native
	ROLLCALL_TEST_REDIS=valkey cargo test --locked --workspace --features rollcall/test-hooks --test native
	ROLLCALL_TEST_WEBSOCKET=direct cargo test --locked --workspace --features rollcall/test-hooks --test native --test hostile --test topology --test starting
	cd sdk && PATH="$(CURDIR)/.node/node_modules/.bin:$$PATH" ROLLCALL_BIN="$(BINARY)" npm test
	cd tests/browser && PATH="$(CURDIR)/.node/node_modules/.bin:$$PATH" ROLLCALL_BIN="$(BINARY)" CHROMIUM="$${CHROMIUM:-$$($(CURDIR)/script/browser)}" node --test
	ROLLCALL_BIN="$(BINARY)" tests/openapi/run

chaos: setup ## Break everything that can break; what happened stands in docs/failures.md then
	cargo test --locked --workspace --features rollcall/test-hooks --test chaos --test nemesis --no-run
	rm -rf "$(FAILURES)"
	@held=true; ROLLCALL_FAILURES="$(FAILURES)" timeout $(CHAOS_MOST) \
		cargo test --locked --workspace --features rollcall/test-hooks --no-fail-fast --test chaos --test nemesis -- --include-ignored --test-threads 2 || held=false; \
	script/failures "$(FAILURES)" docs/failures.md && $$held

bench: ## Measure what everything costs; SCENARIOS=idle,fanout SIZE=full CARRIER=direct, and WRITE=1 for docs/benchmarks.md
	cargo build --release --locked
	cargo build --release --locked -p rollcall-bench
	ulimit -n $$(ulimit -H -n) && timeout --foreground $(BENCH_MOST) "$(dir $(BINARY))../release/rollcall-bench" --size "$(SIZE)" \
		--carrier "$(CARRIER)" $(if $(SCENARIOS),--scenarios "$(SCENARIOS)") $(if $(WRITE),--write)

web: ## Build the pages and the client that the binary embeds, out of web/src and sdk/src; needs Node
	cmp -s web/package-lock.json web/node_modules/.installed-from || (cd web && npm ci --loglevel error --no-audit --no-fund && cp package-lock.json node_modules/.installed-from)
	cd web && npm run --silent check && npm run --silent build

fmt: ## Format the sources
	cargo fmt --all

lint: ## What has to be spotless: formatting, clippy, documentation
	cargo fmt --all --check
	cargo clippy --locked --workspace --all-targets --all-features -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --locked --workspace --no-deps
