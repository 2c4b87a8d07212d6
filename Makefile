# Every command there is. Each target sets up what it needs inside this folder; nothing global is touched.
.DEFAULT_GOAL := help
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
export PIP_DISABLE_PIP_VERSION_CHECK = 1

# Settings, as in `make setup RUNTIME=cpu` or `make serve ARGS="--port 50052"`.
CANDIDATES := python3.11 python3 python3.12 python3.13 python3.14
RECENT := import sys; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(shell for p in $(CANDIDATES); do "$$p" -c '$(RECENT)' 2>/dev/null && { command -v "$$p"; break; }; done || true)
# gpu runs on CPUs too; its wheels exist for Linux on x86-64 only.
RUNTIME ?= $(if $(filter Linux-x86_64,$(shell uname -sm | tr ' ' -)),gpu,cpu)
REPO ?= models
MODEL ?=
NAME ?= $(MODEL)
ARGS ?=

PRESETS := patch-embedding manual-patch-embedding vit-embedding patch-embedding-2d-position position-embedding-2d
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready-$(RUNTIME)
PROTO_VENV := .venv-proto
PROTO_BIN := $(PROTO_VENV)/bin
PROTO_READY := $(PROTO_VENV)/.ready
TORCHVISION_VENV := .venv-torchvision
TORCHVISION_READY := $(TORCHVISION_VENV)/.ready
TENSORFLOW_VENV := .venv-tensorflow
TENSORFLOW_READY := $(TENSORFLOW_VENV)/.ready
TIMM_VENV := .venv-timm
TIMM_READY := $(TIMM_VENV)/.ready-$(RUNTIME)
PEERS_VENV := .venv-peers
PEERS_READY := $(PEERS_VENV)/.ready
PEERS_PINS := benchmarks/serving/peers/constraints.txt
PERF_ANALYZER := build/perf-analyzer
NODE := build/node
PRETRAINED := build/pretrained
TRANSFORMERS_JS := 4.3.2
# The released contract: `.venv/bin/buf build -o protos/vitral-v1.binpb`, run once at the first release and checked in.
RELEASED := protos/vitral-v1.binpb

ANSWERS := $(addprefix tests/test_,engine_image.py engine_open.py engine_preprocess.py engine_session.py \
	engine_half.py served_decode.py served_models.py served_selection.py server_embed.py server_images.py \
	client_parts.py client_shared.py client_stream.py extract_run.py)

# It judges memory and a crowd's answers, and has the machine for itself.
LOAD := tests/test_server_load.py

define need_python
@test -n "$(PYTHON)" || { echo "vitral needs Python 3.11 or newer, and none of $(CANDIDATES) is; \
name one: make PYTHON=/path/to/python3.11" >&2; exit 1; }
endef

.PHONY: help setup demo export serve test test-gpu test-kill test-slow-paths test-timm test-triton \
	test-perf-analyzer test-node test-matrix test-pretrained lint proto proto-check golden-torchvision golden-timm \
	golden-tensorflow golden-pillow bench bench-full bench-extract bench-extract-many bench-gpu bench-peers clean

help: ## Show this list
	@echo "make TARGET, where TARGET is"
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' \
		| while IFS=$$'\t' read -r target what; do printf '  %-18s %s\n' "$$target" "$$what"; done

setup: $(READY) ## Make .venv with everything to develop, export and serve (RUNTIME=gpu|cuda|cpu)
	@echo "$(VENV) is ready (runtime: $(RUNTIME))"

# Another RUNTIME means another environment: two runtimes in one overwrite each other's files.
$(READY): pyproject.toml constraints.txt
	$(need_python)
	@echo "setting up $(VENV) (runtime: $(RUNTIME))"
	@if ls $(VENV)/.ready-* >/dev/null 2>&1 && ! test -e $@; then rm -rf $(VENV); fi
	@test -x $(BIN)/python || "$(PYTHON)" -m venv $(VENV)
	@$(BIN)/python -m pip install -qq --constraint constraints.txt \
		--editable '.[export,server,tracing,cli,extract,view,$(RUNTIME),dev]'
	@touch $@

demo: $(READY) ## Export the ViT-B/16 patch embedding, serve it, embed photographs, compare with PyTorch
	@$(BIN)/python examples/demo.py --repo $(REPO)

export: $(READY) ## Export all presets into models/, or one: MODEL=vit-embedding [NAME=...] [ARGS=...]
	@for preset in $(or $(MODEL),$(PRESETS)); do \
		$(BIN)/vitral-export build "$$preset" --name "$(if $(MODEL),$(NAME),$$preset)" --repo $(REPO) $(ARGS) || exit 1; \
	done

serve: $(READY) ## Serve models/ on port 50051 (ARGS="--port 50052"); exports first when it is empty
	@if test -z "$$(ls $(REPO) 2>/dev/null)"; then \
		echo "$(REPO) is empty: exporting the presets with random weights first"; \
		$(MAKE) --no-print-directory export MODEL= ARGS=; \
	fi
	@exec $(BIN)/vitral-server --repo $(REPO) $(ARGS)

test: lint proto-check ## Run lint, the stale-proto check and all tests (ARGS="-k name" for some)
ifeq ($(ARGS),)
	@$(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder --ignore $(LOAD)
	@$(BIN)/python -m pytest $(LOAD)
else
	@$(BIN)/python -m pytest $(ARGS)
endif

test-kill: $(READY) ## Kill `vitral extract` at a hundred random moments and at each step, and resume it
	@VITRAL_KILLS=100 $(BIN)/python -m pytest tests/test_extract_kill.py $(ARGS)

test-slow-paths: $(READY) ## Run the tests of answers once for each fast path, without it (a quarter of an hour)
	@for path in $$($(BIN)/python tests/slow_paths.py); do \
		echo "without the fast path beside: $$path"; \
		VITRAL_TEST_SLOW_PATH=$$path $(BIN)/python -m pytest -q $(ANSWERS) $(ARGS) || exit 1; \
	done

test-gpu: $(READY) ## Run the tests that need a GPU, or say what is missing (RUNTIME=cuda brings CUDA and cuDNN)
	@$(BIN)/python tools/need_gpu.py
	@$(BIN)/python -m pytest tests/test_gpu_cuda.py tests/test_gpu_tensorrt.py tests/test_engine_cuda.py \
		tests/test_engine_stage.py tests/test_engine_open.py $(ARGS)

test-timm: $(TIMM_READY) ## Run the tests that need timm, in an environment of its own (several GB of libraries)
	@$(TIMM_VENV)/bin/python -m pytest $(wildcard tests/test_timm_*.py) $(ARGS)

$(TIMM_READY): pyproject.toml constraints.txt constraints-timm.txt
	$(need_python)
	@echo "setting up $(TIMM_VENV) (runtime: $(RUNTIME))"
	@rm -rf $(TIMM_VENV)
	@"$(PYTHON)" -m venv $(TIMM_VENV)
	@grep -v '^torch==' constraints.txt | cat - constraints-timm.txt > $(TIMM_VENV)/constraints.txt
	@$(TIMM_VENV)/bin/python -m pip install -qq --constraint $(TIMM_VENV)/constraints.txt \
		--editable '.[timm,server,tracing,cli,extract,view,$(RUNTIME),dev]'
	@touch $@

test-triton: $(READY) $(PEERS_READY) ## Ask Triton and vitral the same, over one repository, and compare the answers
	@VITRAL_TRITON=1 $(BIN)/python -m pytest tests/test_kserve_triton.py tests/test_kserve_triton_config.py $(ARGS)

test-perf-analyzer: $(READY) $(PERF_ANALYZER)/.ready ## Run Triton's load generator, perf_analyzer, against vitral
	@VITRAL_PERF_ANALYZER=$(PERF_ANALYZER) $(BIN)/python -m pytest tests/test_perf_analyzer.py $(ARGS)

test-matrix: $(READY) ## Export, prove and serve every family, size and precision; a table at the end (most of an hour)
	@mkdir -p build
	@VITRAL_MATRIX=build/matrix.json $(BIN)/python -m pytest tests/test_export_matrix.py $(ARGS)
	@$(BIN)/python tools/matrix_table.py build/matrix.json

test-pretrained: $(READY) $(PRETRAINED)/.ready ## Take real trained weights through export, proof and serving
	@VITRAL_PRETRAINED=$(PRETRAINED) $(BIN)/python -m pytest -s tests/test_pretrained.py $(ARGS)

$(PRETRAINED)/.ready: tools/get_pretrained.py | $(READY)
	@echo "fetching trained weights into $(PRETRAINED)"
	@$(BIN)/python tools/get_pretrained.py $(PRETRAINED)
	@touch $@

test-node: $(READY) $(NODE)/.ready ## Load converted models with transformers.js under Node.js, and compare the tensors
	@VITRAL_NODE=$(NODE) $(BIN)/python -m pytest tests/test_export_convert.py $(ARGS)

# Its own install step would fetch CUDA libraries.
$(NODE)/.ready: Makefile
	@command -v npm >/dev/null || { echo "Node.js and npm are needed" >&2; exit 1; }
	@echo "fetching @huggingface/transformers into $(NODE)"
	@mkdir -p $(NODE)
	@cd $(NODE) && ONNXRUNTIME_NODE_INSTALL=skip npm install --silent --no-audit --no-fund @huggingface/transformers@$(TRANSFORMERS_JS)
	@touch $@

$(PERF_ANALYZER)/.ready: tools/get_perf_analyzer.py | $(READY)
	@echo "fetching perf_analyzer into $(PERF_ANALYZER)"
	@$(BIN)/python tools/get_perf_analyzer.py $(PERF_ANALYZER)
	@touch $@

lint: $(READY) ## Check style, types, the import rule and the protos
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/mypy examples
	@MYPYPATH=tools $(BIN)/mypy --ignore-missing-imports tools
	@$(BIN)/lint-imports
	@$(BIN)/buf lint
	@if test -e $(RELEASED); then $(BIN)/buf breaking --against $(RELEASED); fi

proto: $(PROTO_READY) ## Generate the Python code of the protos, beside them
	@PATH="$(CURDIR)/$(PROTO_BIN):$$PATH" $(PROTO_BIN)/python tools/generate_protos.py

proto-check: $(PROTO_READY) ## Fail when the checked-in code of the protos is stale
	@PATH="$(CURDIR)/$(PROTO_BIN):$$PATH" $(PROTO_BIN)/python tools/check_protos.py

$(PROTO_READY): constraints-proto.txt
	$(need_python)
	@echo "setting up $(PROTO_VENV)"
	@rm -rf $(PROTO_VENV)
	@"$(PYTHON)" -m venv $(PROTO_VENV)
	@$(PROTO_BIN)/python -m pip install -qq --constraint constraints-proto.txt grpcio-tools mypy-protobuf
	@touch $@

golden-torchvision: $(TORCHVISION_READY) ## Make the golden pixels of contract hf-torchvision again (several GB of libraries)
	@$(TORCHVISION_VENV)/bin/python tools/golden_torchvision.py

golden-timm: $(TORCHVISION_READY) ## Make the golden hashes of contract timm again (the same libraries)
	@$(TORCHVISION_VENV)/bin/python tools/golden_timm.py

golden-tensorflow: $(TENSORFLOW_READY) ## Make the golden hashes of contract google-tf again (a GB of libraries)
	@TF_CPP_MIN_LOG_LEVEL=3 $(TENSORFLOW_VENV)/bin/python tools/golden_tensorflow.py

golden-pillow: $(READY) ## Add the installed Pillow to the golden hashes of contract hf-pil
	@$(BIN)/python tools/golden_pillow.py

$(TENSORFLOW_READY): constraints-tensorflow.txt
	$(need_python)
	@echo "setting up $(TENSORFLOW_VENV)"
	@rm -rf $(TENSORFLOW_VENV)
	@"$(PYTHON)" -m venv $(TENSORFLOW_VENV)
	@$(TENSORFLOW_VENV)/bin/python -m pip install -qq --constraint constraints-tensorflow.txt \
		numpy pillow scikit-image tensorflow-cpu
	@touch $@

$(TORCHVISION_READY): constraints-torchvision.txt
	$(need_python)
	@echo "setting up $(TORCHVISION_VENV)"
	@rm -rf $(TORCHVISION_VENV)
	@"$(PYTHON)" -m venv $(TORCHVISION_VENV)
	@$(TORCHVISION_VENV)/bin/python -m pip install -qq --constraint constraints-torchvision.txt \
		numpy pillow scikit-image timm torch torchvision transformers
	@touch $@

bench: $(READY) ## Measure the server beside its limit, a torch loop and a plain gRPC server (three minutes)
	@$(BIN)/python -m benchmarks.serving --startup $(ARGS)

# Peers that are not there are named as missing.
bench-full: $(READY) ## Measure every workload, way and number of callers, table, plot and JSON (an hour)
	@mkdir -p build
	@$(BIN)/python -m benchmarks.serving --workloads all --ways all --callers 1,8,64 --seconds 5 \
		--open-loop --startup --json build/bench.json --plot build/bench.png $(ARGS)

bench-extract: $(READY) ## Measure `vitral extract` against the sum of its parts and a PyTorch loop
	@$(BIN)/python -m benchmarks.extract $(ARGS)

bench-extract-many: $(READY) ## Extract 40,000 pictures, watch the memory, verify the data set (some minutes)
	@$(BIN)/python -m benchmarks.extract_many $(ARGS)

bench-gpu: $(READY) ## Measure a GPU: buckets, CUDA graphs, instances, TF32, TensorRT, or say what is missing
	@$(BIN)/python tools/need_gpu.py
	@$(BIN)/python -m benchmarks.gpu $(ARGS)

bench-peers: $(READY) $(PEERS_READY) ## Hold the answers of other servers (Triton, LitServe, plain grpcio) against the engine's
	@$(BIN)/python -m benchmarks.serving.peers $(ARGS)

$(PEERS_READY): $(PEERS_PINS)
	$(need_python)
	@echo "setting up $(PEERS_VENV)"
	@rm -rf $(PEERS_VENV)
	@"$(PYTHON)" -m venv $(PEERS_VENV)
	@$(PEERS_VENV)/bin/python -m pip install -qq --constraint $(PEERS_PINS) \
		nvidia-pytriton litserve onnxruntime pillow numpy
	@touch $@

clean: ## Remove environments, builds and caches (models/ stays)
	rm -rf $(VENV) $(PROTO_VENV) $(TORCHVISION_VENV) $(TENSORFLOW_VENV) $(TIMM_VENV) $(PEERS_VENV) build dist
	rm -rf *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
