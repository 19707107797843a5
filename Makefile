# The two commands of the README are `make demo` and `make test`; both set up what they need on a fresh Debian machine.
CARGO ?= cargo
export PATH := $(HOME)/.cargo/bin:$(PATH)

.PHONY: demo test lab lab-down check build

demo:            ## load, change and remove a real driver on two virtual-machine nodes, and watch it
	@./.ci/prepare
	@$(CARGO) build --quiet --package tenon-operator --package tenon-agent --package tenon-loader --package kubectl-tenon
	@$(CARGO) run --quiet --package tenon-lab --bin tenon-lab -- demo

test:            ## every tier of tests
	@./.ci/prepare
	@$(CARGO) xtask test

lab:             ## a cluster to play with: prints its kubeconfig and what to try
	@./.ci/prepare
	@$(CARGO) build --quiet --package tenon-operator --package tenon-agent --package tenon-loader --package kubectl-tenon
	@$(CARGO) run --quiet --package tenon-lab --bin tenon-lab -- up

lab-down:        ## takes that cluster away
	@$(CARGO) run --quiet --package tenon-lab --bin tenon-lab -- down

check:           ## what needs nothing but Rust: format, lints, unit tests, documentation, generated files
	@$(CARGO) xtask ci
