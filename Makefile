# The two commands of the README are `make demo` and `make test`; both set up what they need on a fresh Debian machine.
CARGO ?= cargo
export PATH := $(HOME)/.cargo/bin:$(PATH)

# Built at once, as the lab does it itself: built one by one, what they share would be built for each.
PROGRAMS = --bins --package tenon-lab --package tenon-operator --package tenon-agent --package tenon-loader --package tenon-maker --package kubectl-tenon \
	--package tenon-example-device-plugin --package tenon-example-dra-driver
BUILT = $${CARGO_TARGET_DIR:-$(CURDIR)/target}/$$(rustc --print host-tuple)/debug
LAB = TENON_LAB_PROGRAMS=$(BUILT) $(BUILT)/tenon-lab

.PHONY: demo test matrix bench lab lab-down check

demo:            ## load, change and remove a real driver on three virtual-machine nodes, and watch it
	@./.ci/prepare
	@echo "building the programs (the first time takes minutes)"
	@$(CARGO) build --quiet $(PROGRAMS)
	@$(LAB) demo

test:            ## every tier of tests
	@./.ci/prepare
	@echo "building the test runner (the first time takes minutes)"
	@$(CARGO) xtask test

matrix:          ## what takes too long for every change: every prediction against four kernels, every fault at every write
	@./.ci/prepare
	@$(CARGO) xtask matrix

bench:           ## thousands of simulated nodes: what each thing costs, into docs/benchmarks.json and a page (half an hour)
	@./.ci/prepare
	@$(CARGO) xtask bench

lab:             ## a cluster to play with: prints its kubeconfig and what to try
	@./.ci/prepare
	@echo "building the programs (the first time takes minutes)"
	@$(CARGO) build --quiet $(PROGRAMS)
	@$(LAB) up

lab-down:        ## takes that cluster away
	@$(LAB) down

check:           ## what needs nothing but Rust: format, lints, unit tests, documentation, generated files
	@$(CARGO) xtask ci
