# SPDX-License-Identifier: GPL-3.0-or-later
# slurm-ec2-fleet: build, demo, test, install. `make help` lists the targets.

CARGO ?= cargo
SLURM_INCLUDE ?= /usr/include
DESTDIR ?=
PREFIX ?= /usr/local
SEEDS ?= 1000
# Tests that run at once. Most of them wait most of the time, foremost those on clusters: docs/benchmarks.md has the times.
TESTS_AT_ONCE ?= 8

# Where cargo builds (it honours CARGO_TARGET_DIR by itself).
TARGET = $(or $(CARGO_TARGET_DIR),target)
SHIM = $(TARGET)/shim/job_submit_ec2_fleet.so
# Optimised, and without the AWS SDK: a minute to compile.
SIM = --locked --profile sim --package slurm-ec2-fleet-sim
# What is installed: the library, and the members that have programs.
PRODUCT = --package slurm-ec2-fleet --package slurm-ec2-fleet-cli --package slurm-ec2-fleet-emulator
PROGRAMS = ec2fleet ec2fleet-resume ec2fleet-suspend ec2fleet-resume-fail

# Debian packages for building (a C compiler, libclang for bindgen, Slurm's public headers), for running a real cluster on
# this machine, and for the test suites (valgrind, a Python environment for botocore).
PACKAGES = gcc libc6-dev libclang-dev libslurm-dev munge slurmctld slurmd slurm-client curl ca-certificates \
	valgrind python3 python3-venv
# No Debian package has it.
GET_DENY = cargo install --locked cargo-deny

.DEFAULT_GOAL = build
.PHONY: build shim demo check check-tests check-sim test test-python test-sim test-cargo test-doc test-releases test-packages packages \
	lint lint-dependencies bench sim deps install help

build: shim ## build everything (development profile)
	$(CARGO) build --locked --workspace --all-targets

# One second, for the Slurm whose headers are in SLURM_INCLUDE/slurm; slurmctld loads only a shim of its exact release.
shim: ## build the part that slurmctld's release decides: make shim SLURM_INCLUDE=/usr/include
	+$(MAKE) --no-print-directory -C c_shim SLURM_INCLUDE='$(abspath $(SLURM_INCLUDE))' OUT='$(abspath $(dir $(SHIM)))'

demo: deps shim ## a real cluster on this machine, with EC2 emulated: one job from sbatch to terminated instances
	$(CARGO) build --locked $(PRODUCT) --package slurm-ec2-fleet-demo
	$(TARGET)/debug/demo

check: ## after a change, before a commit: formatting, clippy, unit tests, the programs' tests, a short simulation
	+@MAKE='$(MAKE)' tests/parts.sh lint check-tests check-sim

check-tests:
	RUST_TEST_THREADS=$(TESTS_AT_ONCE) $(CARGO) test --locked --workspace --lib --bins --test programs

check-sim:
	+@$(MAKE) --no-print-directory sim SEEDS=300

# The times are printed before the last part, which takes a second or two: the closing lines are those of a run of tests.
test: ## every check; what CI runs
	+@MAKE='$(MAKE)' tests/parts.sh deps lint build test-python test-sim test-cargo test-doc
	$(CARGO) test --locked --workspace --test architecture

test-cargo:
	RUST_TEST_THREADS=$(TESTS_AT_ONCE) $(CARGO) test --locked --workspace --no-fail-fast --tests

test-doc:
	$(CARGO) test --locked --workspace --doc

test-python: build
	set -e; for suite in tests/*/run.sh; do if [ -x "$$suite" ]; then echo "== $$suite"; "$$suite"; fi; done

test-sim: ## some thousand simulated clusters, and every planted bug
	$(CARGO) test $(SIM) --test sim

test-releases: ## the end-to-end tests with Slurm 22.05, 24.11 and 26.05, in Debian roots of their own (as root; SUITES='trixie')
	CARGO='$(CARGO)' tests/releases/test.sh $(SUITES)

# BUILD: the folder of the built programs; the release profile is what should be packaged.
packages: ## .deb and .rpm of what is in BUILD (target/release), with shims for the Slurm of every Debian root, into target/packages
	packaging/build.sh '$(or $(BUILD),$(TARGET)/release)' '$(TARGET)/packages' $(SUITES)

test-packages: build ## install, upgrade, remove and purge packages of the development build in clean roots of each Debian release
	tests/releases/packages.sh '$(TARGET)/debug' $(SUITES)

bench: shim ## measure and print a table; PROFILE=dev for the development build, PARTS='engine thousand' for some of it
	$(CARGO) build --locked --profile $(or $(PROFILE),release) $(PRODUCT) --package slurm-ec2-fleet-bench
	$(TARGET)/$(if $(filter dev,$(PROFILE)),debug,$(or $(PROFILE),release))/bench $(PARTS)

lint: lint-dependencies ## formatting, clippy, and cargo deny where it is installed
	@if $(CARGO) fmt --version >/dev/null 2>&1; then $(CARGO) fmt --all --check; \
		else echo "lint: cargo fmt is not installed (rustup component add rustfmt); formatting is not checked"; fi
	@if $(CARGO) clippy --version >/dev/null 2>&1; then $(CARGO) clippy --locked --workspace --all-targets -- -D warnings; \
		else echo "lint: cargo clippy is not installed (rustup component add clippy); lints are not checked"; fi

# Only the advisories come from the network.
lint-dependencies:
	@if ! $(CARGO) deny --version >/dev/null 2>&1; then \
		echo "lint: cargo deny is not installed ($(GET_DENY)); licences, sources and advisories are not checked"; \
	elif $(CARGO) deny --locked fetch db; then $(CARGO) deny --locked check; \
	else echo "lint: the advisories could not be fetched and are not checked"; \
		$(CARGO) deny --locked check bans licenses sources; fi

sim: ## simulate clusters: make sim SEEDS=N [JOBS=N]; a failing seed is replayed by SEED=N
	$(CARGO) build $(SIM) --bin sim
	$(TARGET)/sim/sim $(if $(SEED),--seed $(SEED),--seeds $(SEEDS)) $(if $(JOBS),--jobs $(JOBS))

deps: ## install the missing system packages (as root), or print the line that does it
	@deploy/deps.sh $(PACKAGES)
	@$(CARGO) deny --version >/dev/null 2>&1 || echo "For all of make lint: $(GET_DENY)"

install: shim ## install into DESTDIR/PREFIX, and the plugin into the installed Slurm's plugin folder (or PLUGIN_DIR)
	$(CARGO) build --locked --release $(PRODUCT)
	DESTDIR='$(DESTDIR)' PREFIX='$(PREFIX)' PLUGIN_DIR='$(PLUGIN_DIR)' \
		deploy/install.sh '$(TARGET)/release' '$(SHIM)' $(PROGRAMS) ec2-emulator

help:
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | expand -t 12
