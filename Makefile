# Everything a contributor runs. `make help` lists it.
SHELL := /bin/bash
.DEFAULT_GOAL := help
export PYTHONSAFEPATH := 1

VENV ?= .venv
BIN := $(VENV)/bin
# The first Python that kserve supports: python3 itself where it fits.
PYTHON ?= $(shell for candidate in python3 python3.13 python3.12 python3.11; do \
	$$candidate -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' 2>/dev/null \
	&& { echo $$candidate; break; }; done)
CODE := core predictors transformers eventing mlflow local kube loadtest cli tests benchmarks

.PHONY: images engine wheel locks check-locks help demo up test test-cluster hey services lint format storm bench bench-transformer bench-api bench-gateway bench-judge bench-predictor bench-gpu bench-sources bench-sources-rgw bench-rollout notebooks clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-17s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(VENV)/.demo ## install, train, classify pictures that keep landing in a bucket while the model changes, show the table, leave nothing running
	@$(BIN)/whimbrel demo

up: $(VENV)/.demo ## install, start everything on this machine and stay; Ctrl-C stops it
	@$(BIN)/whimbrel up

test: $(VENV)/.dev hey services ## install what the tests need and run all of them
	@$(BIN)/pytest

# $(call installed,PROGRAM,PACKAGES): installed by apt where this may, else said in one line; started by nobody.
define installed
command -v $(1) >/dev/null \
|| { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && apt-get update -qq \
	&& RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $(2) >/dev/null; } \
|| echo '$(1) is not installed: the tests that need it are left out (apt install --no-install-recommends $(2))'
endef

test-cluster: $(VENV)/.dev ## run the tests that are true of either engine on the cluster of KUBECONFIG (KServe with Knative)
	@WHIMBREL_TEST_CLUSTER=1 $(BIN)/pytest tests/e2e/test_either_engine.py

hey: # the load generator that some tests use; they are skipped, and say so, where it cannot be installed
	@$(call installed,hey,hey)

services: # the real Ceph, RabbitMQ and Prometheus of some tests, likewise
	@$(call installed,radosgw,ceph-mon ceph-osd radosgw)
	@$(call installed,/usr/sbin/rabbitmq-server,rabbitmq-server)
	@$(call installed,prometheus,prometheus)

lint: $(VENV)/.dev ## ruff, mypy strict, import-linter
	@$(BIN)/ruff format --check $(CODE) notebooks
	@$(BIN)/ruff check $(CODE) notebooks
	@$(BIN)/mypy $(CODE)
	@$(BIN)/lint-imports

format: $(VENV)/.dev ## format the code, mend what ruff can
	@$(BIN)/ruff format $(CODE) notebooks
	@$(BIN)/ruff check --fix $(CODE) notebooks

storm: $(VENV)/.dev ## 10,000 objects through RGW and RabbitMQ, 300 through SQS, while everything is killed; prints what came of them
	@PYTHONPATH=tests/support $(BIN)/python -m testbed.storm $(STORM)

bench: $(VENV)/.dev ## measure the whole way of an image; rewrites the table in benchmarks/README.md
	@PYTHONPATH=benchmarks $(BIN)/python benchmarks/way.py

bench-transformer: $(VENV)/.dev ## measure decoding against Pillow alone and the naive way; rewrites the table in benchmarks/README.md
	@PYTHONPATH=benchmarks $(BIN)/python benchmarks/transformer.py

bench-api: $(VENV)/.dev ## measure the one-machine API with 1,000 objects; rewrites the table in benchmarks/README.md
	@PYTHONPATH=benchmarks $(BIN)/python benchmarks/api.py

bench-gateway: $(VENV)/.dev ## measure what the gateway adds to a request and the engine to a start; rewrites the table in benchmarks/README.md
	@PYTHONPATH=benchmarks $(BIN)/python benchmarks/gateway.py

bench-predictor: $(VENV)/.dev ## measure the predictor against a bare loop and its peers, swaps under load and the start (SECTIONS=peers,swaps: only those); rewrites the tables in benchmarks/README.md and their pictures
	@GOMP_SPINCOUNT=10000 SECTIONS=$(SECTIONS) PYTHONPATH=benchmarks:tests/support $(BIN)/python -m predictor

bench-gpu: $(VENV)/.dev ## on an NVIDIA GPU, measure the predictor against a bare loop with the same copies, and decoding on the device
	@PYTHONPATH=benchmarks $(BIN)/python benchmarks/gpu.py

bench-sources: $(VENV)/.dev services ## measure the sources against one event at a time and the HTTP client alone; rewrites the table in benchmarks/README.md
	@PYTHONPATH=benchmarks:tests/support $(BIN)/python benchmarks/sources.py

bench-sources-rgw: $(VENV)/.dev services ## measure Ceph's pull mode while 1,000 to 100,000 events wait (half an hour); rewrites its table
	@PYTHONPATH=benchmarks:tests/support $(BIN)/python benchmarks/sources_rgw.py

# Images. make images REGISTRY=registry.example/team TAG=0.1.0 PYTHON_IMAGE=mirror.example/python:3.12-slim
TAG ?= $(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
REGISTRY ?=
PYTHON_IMAGE ?= docker.io/library/python:3.12-slim-bookworm
CONTAINER_ENGINE ?= $(shell command -v docker || command -v podman)
# $(call image,NAME,ROOM,MORE ARGUMENTS)
image = $(CONTAINER_ENGINE) build --file $(2)/Dockerfile --build-arg PYTHON_IMAGE=$(PYTHON_IMAGE) $(3) \
	$(if $(PIP_INDEX_URL),--build-arg PIP_INDEX_URL) --tag $(if $(REGISTRY),$(REGISTRY)/)whimbrel/$(1):$(TAG) .

images: engine wheel ## build every image with docker or podman: the wheel once, then what each lock names
	$(call image,transformers,transformers)
	$(call image,eventing,eventing)
	$(call image,predictors,predictors,--build-arg VARIANT=cpu)
	$(call image,predictors-cuda,predictors,--build-arg VARIANT=cuda)
	$(call image,mlflow,mlflow,--build-arg VARIANT=cpu)

engine:
	@[ -n "$(CONTAINER_ENGINE)" ] || { echo 'expected docker or podman, seen neither; install one' >&2; exit 1; }

wheel: | $(VENV)/bin/python # the one that every image installs; needs nothing else of this project
	@$(BIN)/python -c 'import build' 2>/dev/null || $(BIN)/python -m pip install --quiet build
	@rm -f dist/whimbrel-*.whl
	@$(BIN)/python -m build --wheel --outdir dist . >/dev/null

locks: $(BIN)/uv ## write every image's lock anew from the extras, changing no version that still fits; UPGRADE=1 takes the newest
	@for room in transformers eventing predictors mlflow; do ./.ci/lock $(BIN)/uv $$room tracing || exit 1; done

check-locks: $(VENV)/.dev wheel ## install each image's lock alone, start its program, say its size; LOCKS="transformers eventing" leaves torch out
	@PYTHONPATH=tests/support $(BIN)/python -m testbed.lock_environments $(LOCKS)

$(BIN)/uv: | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet uv

bench-judge: $(VENV)/.dev ## simulate 9,000 rollouts: false alarms and misses of the judge; rewrites the table in benchmarks/README.md
	@PYTHONPATH=benchmarks $(BIN)/python benchmarks/judge.py

bench-rollout: $(VENV)/.dev ## promote versions in place under load: time, failures, p99 by phase; rewrites the table in benchmarks/README.md and rollout.png
	@PYTHONPATH=benchmarks $(BIN)/python benchmarks/rollout.py

notebooks: $(VENV)/.dev ## execute the notebooks against an engine of their own, and keep what came of them in them
	@PYTHONPATH=tests/support $(BIN)/python -m testbed.notebooks --write

clean: ## remove the virtual environment and all local state
	rm -rf $(VENV) .whimbrel

$(VENV)/bin/python:
	@sh ./.ci/preflight '$(PYTHON)' '$(VENV)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip

$(VENV)/.demo: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --editable '.[all]'
	@touch $@

$(VENV)/.dev: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $@ $(VENV)/.demo
