# Everything that a contributor runs. GNU make 3.81 or newer, any POSIX sh;
# Linux and macOS.

GO        ?= go
GOTOOL    := $(GO) tool -modfile=tools/go.mod
FUZZTIME  ?= 20s
BENCHTIME ?= 1s
SOAK      ?= 10m
# What `make chaos` runs.
CHAOS     ?= UnderFaults|CutOff|RegionDown|TwoAtOnce|PushedOver|Drills|WhileCut|DeletedByHand|FullStreams|TestDocument|Clock|Killed|Stolen|HomeMoves
# More arguments for `go test` and for the demo.
TESTFLAGS ?=
DEMOFLAGS ?=

# What a developer's shell points at is none of a build's or a test's business.
unexport NATS_URL
unexport NATS_CREDS
unexport NATS_CONTEXT

.DEFAULT_GOAL := help
.PHONY: help demo test test-long chaos test-nsc nodejs check build bench soak clean
.NOTPARALLEL:

help: ## list the targets
	@awk 'BEGIN { FS = ":.*## " } /^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' Makefile

demo: build ## three regions, their services, and a chat across them
	@$(GO) build -trimpath -o bin/ ./examples/demo
	@./bin/demo $(DEMOFLAGS)

# Sets the shell variable `race`. Go says itself whether it can build for the
# race detector here; whether a C compiler links a program is tried.
define find-race
race=-race; \
if ! why=$$($(GO) list -race errors 2>&1 >/dev/null); then \
	race=; \
elif [ "$$($(GO) env GOOS)" != darwin ]; then \
	cc=$$($(GO) env CC); dir=$$(mktemp -d); \
	printf '#include <stdlib.h>\nint main(void) { return EXIT_SUCCESS; }\n' >"$$dir/probe.c"; \
	$$cc -o "$$dir/probe" "$$dir/probe.c" >/dev/null 2>&1 || { race=; why="'$$cc' cannot build a C program"; export CGO_ENABLED=0; }; \
	rm -rf "$$dir"; \
fi; \
[ -n "$$race" ] || echo "make: testing without the race detector, which needs cgo and a C compiler: $$why" >&2
endef

test: ## all tests, with the race detector where there is a C compiler
	@$(find-race); set -x; \
	$(GO) test $$race -p 2 -timeout 10m $(TESTFLAGS) ./... && \
	{ [ -z "$$race" ] || $(GO) test -run Allocates $(TESTFLAGS) ./pkg/issuer; } # not to be counted with the race detector

test-long: ## all tests, the long ones too, then each fuzz target for FUZZTIME (20s)
	@$(find-race); set -x; \
	HERALD_LONG=1 $(GO) test $$race -p 2 -timeout 60m $(TESTFLAGS) ./...
	@targets=$$(grep -rEo --include='*_test.go' '^func Fuzz[A-Za-z0-9_]+' . | sort); \
	[ -n "$$targets" ] || { echo "make: no fuzz target was found" >&2; exit 1; }; \
	echo "$$targets" | while IFS=: read -r file func; do \
		name=$${func#func }; \
		echo "fuzzing $$name in $$(dirname "$$file") for $(FUZZTIME)"; \
		log=$$(mktemp); \
		$(GO) test -run '^$$' -fuzz "^$$name\$$" -fuzztime $(FUZZTIME) "$$(dirname "$$file")" </dev/null >"$$log" 2>&1; code=$$?; cat "$$log"; \
		: "go test may call the end of its own time a failure (go.dev/issue/48591); a real one names its input"; \
		if [ $$code -ne 0 ] && grep -q 'context deadline exceeded' "$$log" && ! grep -q 'Failing input' "$$log"; then code=0; fi; \
		rm -f "$$log"; [ $$code -eq 0 ] || exit 1; \
	done

chaos: ## whole platforms under faults, for three quarters of an hour, and a report of it
	@log=$$(mktemp); echo "make: it is written down in $$log"; \
	HERALD_LONG=1 $(GO) test -v -count 1 -p 1 -timeout 60m $(TESTFLAGS) -run '$(CHAOS)' ./internal/faultstest ./internal/admintest ./internal/rightstest ./internal/hometest >"$$log" 2>&1; code=$$?; \
	grep -E '^(=== RUN|--- |ok|FAIL|panic)|^ +[a-z_]+_test\.go:' "$$log"; exit $$code

test-nsc: ## pkg/nscstore and `nscsetup nsc` against the real nsc, whose path is in HERALD_NSC
	$(GO) test -tags nsc -count 1 $(TESTFLAGS) ./internal/nsctest

check: ## formatting, linters, import rules, module files
	@echo "gofumpt"; out=$$($(GOTOOL) gofumpt -l .) || exit 1; \
	[ -z "$$out" ] || { echo "not formatted (gofumpt -w):" >&2; echo "$$out" >&2; exit 1; }
	$(GO) vet ./...
	$(GOTOOL) golangci-lint run
	$(GO) run ./internal/manifestdoc -check
	$(GO) mod tidy -diff
	$(GO) -C tools mod tidy -diff
	$(GO) mod verify
	$(GO) -C tools mod verify
	$(GO) -C tools/dex mod tidy -diff
	$(GO) -C tools/dex mod verify

nodejs: ## an unmodified nats.js comes in by auth callout (node and npm)
	@dir=$$(mktemp -d); trap 'rm -rf "$$dir"' EXIT; set -e; \
	cp examples/callout-nodejs/*.mjs examples/callout-nodejs/*.json "$$dir"; \
	(cd "$$dir" && npm ci --ignore-scripts --no-audit --no-fund); \
	HERALD_NODEJS="$$dir" $(GO) test -count=1 -v -run '^TestNodeJS$$' $(TESTFLAGS) ./internal/callouttest

build: ## build the programs into bin/
	$(GO) build -trimpath -o bin/ ./cmd/...

bench: ## all benchmarks, each for BENCHTIME (1s)
	@pkgs=$$(grep -rlE --include='*_test.go' '^func Benchmark' . | while read -r file; do dirname "$$file"; done | sort -u); \
	[ -n "$$pkgs" ] || { echo "make: no benchmark yet"; exit 0; }; \
	set -x; $(GO) test -run '^$$' -bench . -benchmem -benchtime $(BENCHTIME) -timeout 60m $$pkgs

soak: ## requests in every way for SOAK (10m), while documents, keys and issuers change
	HERALD_SOAK=$(SOAK) $(GO) test -run '^TestSoak$$' -count 1 -v -timeout 90m $(TESTFLAGS) ./internal/issuebench

clean: ## remove what the other targets made
	rm -rf bin
