# `make run` starts a cell, `make test` tests everything; both set up what they
# need. The rest is for people who work on it. Needs Go and Node, nothing else.

VERSION   ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
BUILT     ?= $(shell git log -1 --format=%ct 2>/dev/null || date +%s)
LDFLAGS   := -s -w -X main.version=$(VERSION) -X main.built=$(BUILT)
GO_BUILD  := CGO_ENABLED=0 go build -trimpath -tags nomsgpack
UI_SOURCE := $(shell find ui -type f -not -path 'ui/node_modules/*' -not -path 'ui/dist/*' -not -path 'ui/test-results/*' -not -path ui/openapi.json -not -path ui/src/api/schema.d.ts -not -name '*.go' 2>/dev/null)
API_SOURCE := $(shell find api auth cell cmd/pic reconcile -name '*.go' -not -name '*_test.go' 2>/dev/null)
STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.2
GOFUMPT     := mvdan.cc/gofumpt@v0.12.0
FUZZTIME  ?= 5s
N         ?= 10
JOBS      ?= 2
KILLS     ?= 1
ROUNDS    ?= 45
KILL_GOTEST ?= $(GOTEST)
GOTEST    ?= go run ./rig/gotest -no-skips --
# What the guest of the VM rig needs beside the test binary.
VM        := $(CURDIR)/bin/vmtest -m 768 -t 8m -x ip -x nft -x wg -x ping -x nsenter -x setpriv -x mount -x sleep -x cat -a $(CURDIR)/bin/pic:/t/bin/pic
# A machine whose clock may be set, and is wrong.
VM_CLOCK  := $(CURDIR)/bin/vmtest -t 4m -x ip -q -rtc

.DEFAULT_GOAL := build
.PHONY: build ui pic run start stop restart flush logs claim-info test check fmt cover fuzz-smoke leakmatrix \
	lab dev vmtest screenshots kill-tests torture mutants bench setup clean help

build: ui pic ## UI and binary: bin/pic

ui: ui/dist/index.html

ui/node_modules/.package-lock.json: ui/package-lock.json
	cd ui && npm ci --ignore-scripts --no-audit --no-fund </dev/null
	@touch $@

# The client is generated from the route table, so a page can't ask for what
# the API does not have: tsc fails first.
ui/openapi.json: $(API_SOURCE)
	CGO_ENABLED=0 go run -tags nomsgpack ./cmd/pic openapi > $@.tmp
	@cmp -s $@.tmp $@ && rm $@.tmp || mv $@.tmp $@
	@touch $@

ui/src/api/schema.d.ts: ui/openapi.json ui/node_modules/.package-lock.json
	cd ui && npm run --silent gen </dev/null

ui/dist/index.html: ui/node_modules/.package-lock.json ui/src/api/schema.d.ts $(UI_SOURCE)
	cd ui && npm run --silent build </dev/null
	@touch $@ ui/dist/.gitkeep

pic: # go decides what is out of date
	$(GO_BUILD) -ldflags "$(LDFLAGS)" -o bin/pic ./cmd/pic

setup-run setup-test setup-bench: setup-%:
	@rig/setup $*

run: setup-run build ## start a cell here (state in ./var) and show how to claim it
	@rig/cell run

start: setup-run build ## the same in the background
	@rig/cell start

stop restart flush logs claim-info: ## … and its other end
	@rig/cell $@

test: setup-test ## everything, the VM run last
	@rig/test

check: ui ## gofumpt, vet, staticcheck, import rules, race tests
	@out=$$(git ls-files -co --exclude-standard '*.go' | xargs go run $(GOFUMPT) -l) && \
		if [ -n "$$out" ]; then echo "gofumpt wants changes in:" $$out; exit 1; fi
	go vet -tags nomsgpack ./...
	go run $(STATICCHECK) -tags nomsgpack ./...
	cd ui && npm run --silent lint
	go test ./internal/archtest/
	go test -race -tags nomsgpack $$(go list -tags nomsgpack ./... | grep -v -e /internal/labtest$$ -e '/rig$$')

fmt: ## what check would complain about, mended
	git ls-files -co --exclude-standard '*.go' | xargs go run $(GOFUMPT) -w

cover: ui ## coverage of every package, total on the last line
	@mkdir -p .cache
	go test -tags nomsgpack -coverpkg=./... -coverprofile=.cache/cover.out $$(go list -tags nomsgpack ./... | grep -v -e /internal/labtest$$ -e '/rig$$')
	go tool cover -func=.cache/cover.out | tail -1

fuzz-smoke: ## every native fuzz target for FUZZTIME
	@set -e; n=0; for f in $$(git grep -l '^func Fuzz' -- '*_test.go'); do \
		for target in $$(sed -n 's/^func \(Fuzz[A-Za-z0-9_]*\)(.*/\1/p' $$f); do \
			echo "== $$target in $$(dirname $$f)"; n=$$((n+1)); \
			go test -tags nomsgpack -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) ./$$(dirname $$f); \
		done; done; echo "$$n fuzz targets"

lab: build ## the household of namespaces, until Ctrl-C
	go run ./cmd/lab -pic bin/pic

dev: ui/node_modules/.package-lock.json start ## Vite, with /api proxied to the cell
	cd ui && PIC_CELL=https://localhost:8443 npm run dev

bin/vmtest: $(wildcard rig/vmtest/*)
	CGO_ENABLED=0 go build -o $@ ./rig/vmtest

vmtest: pic bin/vmtest ## the tests that want a kernel with WireGuard, in a VM
	@bin/vmtest -setup >/dev/null
	CGO_ENABLED=0 $(GOTEST) -count=1 -tags nomsgpack -timeout 8m -exec "$(VM)" -run '^TestKernel' ./tunnel
	CGO_ENABLED=0 $(GOTEST) -count=1 -tags nomsgpack -timeout 4m -exec "$(VM_CLOCK) -x chronyd -q base=1970-01-01" -run '^TestKernelClock' ./ntp
	CGO_ENABLED=0 $(GOTEST) -count=1 -tags nomsgpack -timeout 4m -exec "$(VM_CLOCK) -e PIC_CLOCK_COLD_ONLY=1 -q base=2038-01-20" -run '^TestKernelClock' ./ntp
	CGO_ENABLED=0 $(GOTEST) -count=1 -tags nomsgpack -timeout 8m -exec "$(VM)" ./rig

screenshots: build setup-test ## docs/screenshot*.png, from the end-to-end run
	PIC_BINARY=$(CURDIR)/bin/pic PIC_SCREENSHOTS=$(CURDIR)/docs $(GOTEST) -count=1 -tags nomsgpack -run TestEndToEnd ./internal/labtest/

kill-tests: ## the process killed at every arrow of a commit and at random times
	$(KILL_GOTEST) -count=$(KILLS) -tags "nomsgpack failpoint" -timeout 30m -run 'Kill' ./reconcile ./cmd/pic

torture: ## the real binary: 1,000 kills at random times, 1,000 at system calls, every damage to every file, floods
	PIC_TORTURE=1 $(GOTEST) -count=1 -v -tags nomsgpack -timeout 4h -run '^(TestDeath|TestEveryDamage|TestLockOut|TestFloods)' ./cmd/pic
	@$(MAKE) --no-print-directory kill-tests KILLS=$(N)

leakmatrix: pic setup-test ## bar KS-1: every fault on every exit, ROUNDS times, with a peer of each that sends all the time
	PIC_BINARY=$(CURDIR)/bin/pic $(GOTEST) -count=1 -v -tags nomsgpack -timeout 6h -run 'TestTheRigSeesALeak|TestNothingLeaks' ./internal/leaktest -rounds $(ROUNDS)

mutants: setup-test ui ## the program broken line by line, each breakage noticed by the test that guards its promise
	go run ./rig/mutants -j $(JOBS)

bench: setup-bench ## figures against the bars and against Debian's peers (bench/README.md)
	go test -tags "nomsgpack bench" -count=1 -timeout 30m -v -p 1 ./bench/...
	PIC_UPLOAD_GIB=10 go test -tags nomsgpack -count=1 -timeout 30m -v -run TestALargeTransferAddsNoMemory ./proxy
	PIC_TESTSSL_FULL=1 go test -tags nomsgpack -count=1 -timeout 30m -v -run TestNothingThatTestsslRates ./proxy

clean:
	rm -rf bin .cache ui/dist/assets ui/dist/index.html ui/node_modules

help:
	@awk -F ':.*## ' '/^[a-z -]+:.*## / { printf "%-28s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
