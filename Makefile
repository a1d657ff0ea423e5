# The commands that people and machines use here. Each is a few lines; the work is in the scripts.

.DEFAULT_GOAL := help
MODEL ?=
PROMPT ?=
STEPS ?=
MINUTES ?=
ADVISORIES ?=
export MODEL PROMPT ADVISORIES

FUZZ = $(TARGET) --minutes $(or $(MINUTES),60) --jobs $(or $(JOBS),$(shell nproc))

.PHONY: help demo test test-quick test-long models fuzz fuzz-summary fuzz-coverage bench bench-compare bench-instructions mca soak format dist deny clean

help:
	@echo 'make demo [PROMPT="..."] [MODEL=file.gguf]   set up, build, install under build/, and chat'
	@echo 'make test [STEPS="..."]   everything that can be tested on this machine'
	@echo 'make test-quick           formatting, lints and the Rust tests: a minute or two'
	@echo 'make test-long            make test, the whole suite in an aarch64 emulator, and all tests optimised'
	@echo 'make models               fetches all models and texts that tests use: 0.5 GB in ~/.cache/tern'
	@echo 'make fuzz [TARGET="..."] [MINUTES=60] [JOBS=...]   a campaign of all fuzz targets, or these, in turns; goes on'
	@echo '                          from where the last one was (docs/fuzzing.md)'
	@echo 'make fuzz-summary         docs/fuzzing.md anew, with what campaigns have come to; make fuzz-coverage: what the corpus covers'
	@echo 'make bench [MODEL=...]    speed of prefill and decode on this machine'
	@echo 'make bench-compare        the same side by side with llama.cpp; docs/performance.md says how'
	@echo 'make bench-instructions   instructions per token on aarch64, beside llama.cpp, in an emulator'
	@echo 'make mca                  writes docs/aarch64-kernels.md: what the aarch64 kernels take, in models of CPUs'
	@echo 'make soak [MINUTES=120]   works for hours with the library as released: memory stays, answers too'
	@echo 'make format               formats the Rust code'
	@echo 'make dist                 a source archive that builds without a network'
	@echo 'make deny [ADVISORIES=1]  licences, bans and sources of all crates by cargo-deny; and known vulnerabilities'
	@echo 'make clean                removes build/ and target/ (not the models in ~/.cache/tern)'

demo:
	@examples-c/demo.sh

test:
	@tests/run.sh test $(STEPS)

test-quick:
	@tests/run.sh quick $(STEPS)

test-long:
	@tests/run.sh long $(STEPS)

models:
	@toolchains/install.sh
	@python3 toolchains/fetch.py all

fuzz:
	@toolchains/install.sh --test
	@. toolchains/env.sh && python3 tests/fuzz/fuzz.py campaign $(FUZZ)

fuzz-summary:
	@python3 tests/fuzz/fuzz.py summary

fuzz-coverage:
	@. toolchains/env.sh && python3 tests/fuzz/fuzz.py coverage

bench:
	@toolchains/install.sh
	@. toolchains/env.sh && cargo build --release --locked --bin tern
	@model="$${MODEL:-$$(python3 toolchains/fetch.py smollm2)}" && \
	  "$${CARGO_TARGET_DIR:-target}/release/tern" bench -m "$$model" -p 512 -n 128 -r 5 --roof

bench-compare:
	@toolchains/install.sh
	@tests/bench/compare.sh

bench-instructions:
	@toolchains/install.sh --bench
	@tests/bench/instructions.sh --install

mca:
	@toolchains/install.sh --mca
	@python3 tests/bench/mca.py --write

soak:
	@toolchains/install.sh
	@python3 toolchains/fetch.py smollm2 >/dev/null
	@tests/soak/run.sh $(MINUTES)

format:
	@. toolchains/env.sh && cargo fmt && cargo fmt --manifest-path tests/bench/Cargo.toml && \
	  cargo fmt --manifest-path tests/fuzz/Cargo.toml && cargo fmt --manifest-path tests/models/Cargo.toml

# What git knows, plus every crate that Cargo.lock names, so that TERN_CARGO_FLAGS=--frozen is enough.
dist:
	@. toolchains/env.sh && toolchains/dist.sh

# Advisories are read from a database that cargo-deny fetches, which is not to be had everywhere.
deny:
	@tests/run.sh test tools deny

clean:
	rm -rf build target
