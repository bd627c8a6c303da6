# chatvault. "make" alone prints what there is.

SHELL := /bin/bash
FUZZTIME ?= 60s
# How long the schedules of "make fault" may take.
FAULTTIME ?= 10m
# Fuzzing, benchmarks: which packages.
PKG ?= ./...
# The commit that programs say they are of, and "-dirty"; nothing outside of a checkout.
STAMP := -ldflags '-X chatvault/protocol/cmdline.commit=$(shell git describe --always --dirty --abbrev=40 --exclude='*' 2>/dev/null)'

.DEFAULT_GOAL := help
.PHONY: help setup build test fault soak lint fmt demo dev fuzz bench bench-store bench-relay night clean

help: ## Print this list.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## Install what is missing (Debian, Ubuntu; as root), or say what to install.
	@.ci/setup test

build: ## Build bin/: chatd, vaultd, backupctl, chatload, and the demo.
	@.ci/setup
	CGO_ENABLED=0 go build -trimpath $(STAMP) -o bin/chatd ./chatd
	CGO_ENABLED=1 go build -trimpath $(STAMP) -o bin/vaultd ./vaultd
	CGO_ENABLED=0 go build -trimpath $(STAMP) -o bin/backupctl ./client/cmd/backupctl
	CGO_ENABLED=0 go build -trimpath $(STAMP) -o bin/chatload ./client/cmd/chatload
	CGO_ENABLED=0 go build -trimpath $(STAMP) -o bin/demo ./docker/demo

test: setup bin/etcd ## Run all tests with the race detector; they start the parts they need.
	go test -race -timeout 30m ./...

fault: setup bin/etcd ## Kill, pause, cut off, and cut the power of vaults and stores (Linux, root; 10 minutes at most).
	go vet -tags fault ./vaultd/internal/faults/...
	go test -tags fault -count 1 -timeout 1m ./vaultd/internal/faults/cutfs
	@# Where it stands: else go test keeps the schedules' lines to itself.
	cd vaultd/internal/faults && go test -tags fault -count 1 -timeout $(FAULTTIME)

soak: setup build bin/etcd ## Mixed load with faults, then abuse (Linux, two CPUs; 10 minutes). SOAK='--seed 7' goes through the same again.
	go run ./docker/soak $(SOAK)

# The etcd that tests run is a module of its own: the programs link only the client.
.PHONY: bin/etcd
bin/etcd:
	cd vaultd/internal/recordstore/engines/etcdserver && CGO_ENABLED=0 GOWORK=off go build -o ../../../../../bin/etcd .

lint: ## gofmt, go vet, staticcheck; govulncheck where its database can be had.
	@.ci/lint

fmt: ## Format all Go files.
	@git ls-files -z --cached --others --exclude-standard -- '*.go' | xargs -0 gofmt -l -w

demo: build ## Show the whole story on real files: lose a phone, get the backup back.
	@bin/demo

dev: build ## Keep the same stack running, with a ticket and commands to try. Ctrl-C ends it.
	@bin/demo --dev

fuzz: ## Run every fuzz target for FUZZTIME (60s) each.
	@.ci/fuzz $(FUZZTIME)

bench: ## Run the benchmarks of PKG (./...).
	go test -run '^$$' -bench . -benchmem $(PKG)

bench-store: setup bin/etcd ## Measure the record stores against their goals (Linux, strace; 20 minutes at most).
	@go run ./vaultd/internal/storebench

bench-relay: setup ## Measure chatd against its goals, beside other relays (Linux; 30 minutes at most).
	@go run ./chatd/internal/relaybench

night: setup bin/etcd ## Fuzz 60 s a target, an hour each of faults and soak, 2 GB of backup, Go benchmarks, all tests twice (hours).
	@.ci/fuzz 60s
	go test -run '^$$' -bench . -benchmem ./...
	CHATVAULT_FAULTS=night $(MAKE) --no-print-directory fault FAULTTIME=70m
	$(MAKE) --no-print-directory soak SOAK='--for 55m --round 4m'
	go test -tags night -count 1 -run AtNight -v ./vaultd/internal/rules
	go test -tags night -count 1 -timeout 20m -run Gigabytes -v ./docker/e2e
	go test -race -count 2 -timeout 60m ./...

clean: ## Remove bin/ and cached test results.
	rm -rf bin
	go clean -testcache
