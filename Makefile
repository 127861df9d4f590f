# headwater. `make help` lists what there is.

CACHE := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/headwater
# Outside the tree, so that every clone on this machine shares what is built once.
export CARGO_TARGET_DIR ?= $(CACHE)/target
CARGO ?= cargo
# A fresh rustup is on no PATH yet.
export PATH := $(PATH):$(HOME)/.cargo/bin
BINARY := $(CARGO_TARGET_DIR)/release/headwater
DENY_VERSION := 0.20.2
DENY := $(CACHE)/tools/cargo-deny-$(DENY_VERSION)/bin/cargo-deny

# The tests wait for servers, timeouts and kills more than they compute.
export RUST_TEST_THREADS ?= $(shell expr 2 '*' $$(nproc))

KILLS ?= 40
SEED ?=
MINUTES ?= 20
# What run, stop, restart, logs, health, stats, ui, backup and restore are about.
CONFIG ?= configs/orders_stream.yml

.DEFAULT_GOAL := help
.PHONY: help stamp setup setup-tests build run stop restart logs clean demo test torture soak bench picture lint format ui health stats \
  backup restore package deny reference

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

setup: stamp ## install what is missing on this machine (Debian packages, Kafka's jars)
	@scripts/setup.sh

setup-tests: stamp
	@scripts/setup.sh --tests

# Cargo names what it builds alike in every clone and trusts the files' times: where another clone
# built last, the roots are touched, so that its artifacts are not taken for ours.
stamp:
	@mkdir -p $(CARGO_TARGET_DIR)
	@[ "$$(cat $(CARGO_TARGET_DIR)/clone 2>/dev/null)" = "$(CURDIR)" ] || { \
	  touch src/lib.rs src/main.rs tests/suite/main.rs benches/pipeline/main.rs; \
	  echo "$(CURDIR)" > $(CARGO_TARGET_DIR)/clone; }

build: setup ## the binary, optimised
	$(CARGO) build --release --locked --bin headwater

run: build ## a pipeline in the background: CONFIG=configs/orders_stream.yml
	@scripts/service.sh start $(BINARY) $(CONFIG)

stop: ## ends it: what it holds is committed first
	@scripts/service.sh stop $(BINARY) $(CONFIG)

restart: build ## ends it and starts it again
	@scripts/service.sh restart $(BINARY) $(CONFIG)

logs: ## follows its log
	@scripts/service.sh logs $(BINARY) $(CONFIG)

health: ## whether it works: one table, exit code 0 when every stage is ready
	@$(BINARY) status -c $(CONFIG)

stats: ## the same, anew every two seconds
	@$(BINARY) status -c $(CONFIG) --watch

ui: ## opens its page in a browser, or says where it is
	@$(BINARY) status -c $(CONFIG) --address | { read -r url; echo "$$url"; command -v xdg-open >/dev/null && xdg-open "$$url" || true; }

backup: build ## what it needs to go on: TO=directory
	@$(BINARY) backup -c $(CONFIG) --to "$(TO)"

restore: build ## puts a backup back: FROM=directory
	@$(BINARY) restore -c $(CONFIG) --from "$(FROM)"

package: build ## archive and Debian package into dist/
	@scripts/package.sh $(BINARY)

clean: ## removes what was built, dist/ and the logs; no lake, no state
	$(CARGO) clean
	rm -rf dist .run

demo: build ## orders and chat on a real PostgreSQL and Kafka, killed once each, then proved (KEEP=1 leaves it running)
	@$(BINARY) demo $(DEMO)

test: setup-tests ## the whole suite, on a real PostgreSQL and Kafka (TESTS=name runs some)
	$(CARGO) test --release --locked $(TESTS)

torture: setup ## kills at random: KILLS=40 SEED=n
	HEADWATER_TORTURE_KILLS=$(KILLS) $(if $(SEED),HEADWATER_TORTURE_SEED=$(SEED)) \
	$(CARGO) test --release --locked --test suite -- --nocapture --test-threads 1 crash::

soak: setup ## MINUTES=20 at 2,000 rows/s with a kill a minute: memory and descriptors stay flat, nothing lost, no false alarm
	HEADWATER_SOAK_MINUTES=$(MINUTES) HEADWATER_BELOW_BOUND_SECONDS=$$(($(MINUTES) * 60)) \
	$(CARGO) test --release --locked --test suite -- --nocapture --test-threads 1 soak:: below_bound::ordinary

bench: setup ## rates, CPU and memory, next to plain ceilings of the same run (BENCH=a runs one)
	$(CARGO) bench --locked --profile release --bench pipeline -- $(BENCH)

picture: setup-tests ## docs/page.png anew: the page of a pipeline that has run for thirteen minutes
	HEADWATER_PICTURE=$(CURDIR)/docs/page.png HEADWATER_PICTURE_SECONDS=780 \
	$(CARGO) test --release --locked --test suite -- page::a_running

lint: stamp $(DENY) ## format, clippy, licences, sources, known faults
	@scripts/components.sh
	$(CARGO) fmt --check
	$(CARGO) clippy --release --locked --all-targets -- -D warnings
	@scripts/deny.sh $(DENY)

format: ## format the source
	@scripts/components.sh
	$(CARGO) fmt

reference: build ## write the reference of keys, metrics and exit codes into README.md
	@$(BINARY) reference > $(CARGO_TARGET_DIR)/reference.md
	@awk -v reference=$(CARGO_TARGET_DIR)/reference.md \
	  '/^<!-- reference -->$$/ { print; print ""; while ((getline line < reference) > 0) print line; print ""; skip = 1 } \
	   /^<!-- \/reference -->$$/ { skip = 0 } !skip && !/^<!-- reference -->$$/ { print }' \
	  README.md > README.md.new && mv README.md.new README.md

# Built apart from our own artifacts; about three minutes on two cores, once.
$(DENY):
	@echo "lint: building cargo-deny $(DENY_VERSION) into $(CACHE)/tools, once" >&2
	@env -u CARGO_TARGET_DIR $(CARGO) install --quiet --locked --version $(DENY_VERSION) \
	  --root $(CACHE)/tools/cargo-deny-$(DENY_VERSION) cargo-deny </dev/null
