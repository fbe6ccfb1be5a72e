# The one menu. CI runs what a person runs.

.DEFAULT_GOAL := help
.PHONY: help demo run wheel test check bench bench-sdk mutants fuzz matrix chaos

CARGO_JOBS ?= 2
ROWS ?= 1000000
BENCH = FLOWFORGE_BIN=$(CURDIR)/target/release/flowforge ./target/release/flowforge-bench
export CARGO_BUILD_JOBS := $(CARGO_JOBS)

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: ## build, serve on the embedded store, and run a realistic Python pipeline into it; Ctrl-C stops
	@./docs/demo/run.sh

run: ## build and run the server with ./config.yaml
	@./.ci/prepare check
	cargo run -p flowforge-server -- serve

wheel: ## the Python package as one wheel for every CPython from 3.10 on, in target/wheels
	@./.ci/prepare demo
	target/venv-demo/bin/maturin build --manifest-path sdk-python/Cargo.toml --out target/wheels
	@echo "== install it where your script runs: pip install target/wheels/flowforge-*.whl"

test: ## everything that must pass: lints, unit, contract and end-to-end tests; installs what is missing
	@./.ci/prepare test
	@./.ci/parts fmt clippy docs boundaries build rust python viewer browser sdk sdk_lint deploy

check: ## the quick part of it: format, lints, docs
	@./.ci/prepare check
	@./.ci/parts fmt clippy docs

bench: ## load figures of a release build: one server, the stores (ROWS=10000000: fuller ones), Redis with each
	@./.ci/prepare bench
	cargo build --release -p flowforge-server -p flowforge-tests --bins
	$(BENCH)
	$(BENCH) stores --rows $(ROWS)
	$(BENCH) redis

bench-sdk: ## what capture costs a Python task, beside a plain print and wandb, and how soon a line is seen
	@./.ci/prepare bench-sdk
	@./sdk-python/bench/run.sh

mutants: ## break the code in known ways and see that the named tests notice; some minutes
	@./.ci/prepare check
	python3 tests/mutants/run.py

SECONDS ?= 60
fuzz: ## hostile input for SECONDS=60 a target, every branch watched: spool files, places, producers, lines; TARGET=name: one
	@./.ci/prepare fuzz
	@./tests/fuzz/run.sh $(SECONDS) $(TARGET)

# Servers of the dev profile: a release has no moments to die at.
FAULTS = cargo build -p flowforge-server -p flowforge-tests --bins && ./target/debug/flowforge-faults

matrix: ## every fault on every pairing of broker and store, about half an hour; FAULT=name and PAIR=name choose
	@./.ci/prepare test
	export FLOWFORGE_CURVES=$(CURDIR)/target/matrix && $(FAULTS) matrix --fault "$(FAULT)" --pair "$(PAIR)" 2>target/matrix.log

MINUTES ?= 30
chaos: ## random faults for MINUTES=30, checked all the time; SEED=n repeats a failure
	@./.ci/prepare test
	$(FAULTS) chaos --minutes $(MINUTES) $(if $(SEED),--seed $(SEED)) --pair "$(PAIR)" 2>target/chaos.log
