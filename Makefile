# `make run` starts Rollcall for trying it out, `make test` checks everything. `make help` lists the rest.

.PHONY: help run test setup fmt lint
.DEFAULT_GOAL := help

# The binary that `cargo test` has built, for the tests that are not Rust.
BINARY := $(or $(CARGO_TARGET_DIR),$(CURDIR)/target)/debug/rollcall

help: ## This list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /  make \1\t/' | expand -t 16

run: ## Build and start in development mode, with presence in memory unless ROLLCALL__REDIS__URL is set
	cargo run --locked -- serve --dev

setup: ## Get what the tests need beside Rust
	@script/setup

test: setup ## All tests: Rust against real Redis and nginx, the page in a browser, the OpenAPI document against the server
	cargo test --locked --features test-hooks
	ROLLCALL_TEST_REDIS=cluster cargo test --locked --features test-hooks --test native
	ROLLCALL_TEST_REDIS=valkey cargo test --locked --features test-hooks --test native
	cd tests/browser && PATH="$(CURDIR)/.node/node_modules/.bin:$$PATH" ROLLCALL_BIN="$(BINARY)" CHROMIUM="$${CHROMIUM:-$$($(CURDIR)/script/browser)}" node --test
	ROLLCALL_BIN="$(BINARY)" tests/openapi/run

fmt: ## Format the sources
	cargo fmt

lint: ## What has to be spotless: formatting, clippy, documentation
	cargo fmt --check
	cargo clippy --locked --all-targets --all-features -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --locked --no-deps
