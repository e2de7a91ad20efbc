# make demo   environment, pipeline on the built-in data, scores
# make test   environment, everything that continuous integration runs but `make image-check`
PYTHON ?= python3
VENV ?= .venv
# On Linux the package index serves PyTorch with CUDA (gigabytes). Where that matters, name PyTorch's CPU index:
#   make test PIP_FLAGS="--extra-index-url https://download.pytorch.org/whl/cpu"
TORCH ?= torch==2.13.0
PIP_FLAGS ?=
# The environment with RAPIDS, for machines with an NVIDIA GPU.
VENV_GPU ?= .venv-gpu

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
# The test workers and the benchmarks' rivals share two cores: one BLAS thread each.
ONE_THREAD := OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 MKL_NUM_THREADS=1

.PHONY: help demo test test-blas venv venv-gpu gpu-check nvidia-driver lint format unit packaging lock image image-cpu image-check docs bench-pipeline bench-svr bench-features bench-boosting bench-screen bench-evaluation bench-accuracy bench-atlas bench-contexts bench-batches bench-scale bench-nets bench-signatures bench-objectives bench-cluster fuzz campaign clean bench-next
help:
	@sed -n '1,2s/^# //p' Makefile
	@echo 'make venv   the environment alone, with everything'
	@echo 'make lint   ruff, mypy, import-linter, pre-commit configuration'
	@echo 'make unit   the tests alone'
	@echo 'make test-blas   the numerical tests under lower kernels of OpenBLAS and with two threads (after make test)'
	@echo 'make packaging   every extra resolves on every Python, uv.lock and docker/constraints/ are those of pyproject.toml'
	@echo 'make lock   uv.lock and docker/constraints/ anew, after a change of the dependencies'
	@echo 'make docs   the documentation as a site, in build/docs/site; links and anchors are checked'
	@echo 'make image, image-cpu   container images (docs/guide/docker.md)'
	@echo 'make image-check   the CPU image is built in a Docker engine, run as users would, and looked through'
	@echo 'make venv-gpu   an environment with RAPIDS in .venv-gpu'
	@echo 'make gpu-check   everything that only a GPU can show: doctor, GPU tests, GPU benchmarks (5 minutes; docs/guide/gpu.md)'
	@echo 'make bench-pipeline   whole runs: seconds, memory, scores (benchmarks/results/)'
	@echo 'make bench-features   target encoders against the loops they replace; neighbours of compounds (3 minutes)'
	@echo 'make bench-boosting   boosting engines side by side: time, error (30 minutes)'
	@echo 'make bench-screen   feature screening: one gene, all genes, false alarms (5 minutes)'
	@echo 'make bench-evaluation   which split foretells the error on the pairs to predict (15 minutes)'
	@echo 'make bench-accuracy   every method on real data, three tasks: scores with intervals, time, memory (50 minutes)'
	@echo 'make bench-atlas   unseen compounds with an atlas of other cell lines, and with one of wrong names (7 minutes)'
	@echo 'make bench-contexts   unseen doses, times and compounds, on Open TG-GATEs (7 minutes)'
	@echo 'make bench-nets   nets: many at once beside one after the other, what each idea is worth, recipes (45 minutes)'
	@echo 'make bench-signatures   is a compound found again by its signature, from predictions alone? (a minute)'
	@echo 'make bench-next   does measuring the pairs that next names lower the error of the others more than random ones? (10 minutes)'
	@echo 'make bench-objectives   what telling compounds apart costs: --objective beside simple ways (2 minutes)'
	@echo 'make bench-scale   how the default recipe grows with rows and genes, and kernel ridge beside other libraries (25 minutes)'
	@echo 'make bench-batches   memory and speed of predicting and ranking more and more pairs (20 minutes, 8 GB of disk)'
	@echo 'make bench-cluster   what a cluster costs, and work that is cut off: killed workers, resumed runs (25 minutes)'
	@echo 'make fuzz   bad input of every kind: no crash, no hang, one line of text (12 minutes; benchmarks/results/)'
	@echo 'make campaign   kills, full disks, signals and bad input: nothing lost, nothing half-written (30 minutes)'
	@echo 'make bench-svr   SVR engines against the loops they replace: time, error, memory (5 minutes)'

demo: $(VENV)/.ready-to-run
	$(BIN)/rapids-perturb demo --out runs/demo --overwrite

# `packaging` mostly waits for the package index, and the tests wait for their own children now and then, so `lint` and
# `packaging` run beside the tests; what they printed comes last.
test: $(VENV)/.ready-to-test
	@log=$$(mktemp); $(MAKE) --keep-going lint packaging >$$log 2>&1 & checks=$$!; \
	$(MAKE) unit; unit=$$?; wait $$checks; checked=$$?; cat $$log; rm -f $$log; exit $$((unit || checked))

venv: $(VENV)/.ready-to-test

lint: $(VENV)/.ready-to-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/pre-commit validate-config

format: $(VENV)/.ready-to-test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

unit: $(VENV)/.ready-to-test
	$(ONE_THREAD) $(BIN)/python -m pytest -n 2 -m 'not index'

# The numerical tests once more with matrix products of other processors: OpenBLAS kernels that are lower than this
# machine's own (one above the processor crashes), with one thread and with two. `make test` has compiled numba's kernels.
# Left out is what these products cannot change: the features of molecules (RDKit, nets with the products of torch, and
# products of zeros and ones, which are exact), and scikit-learn's checks of types, names and errors. Its checks that
# compare two fits or predictions stay.
BLAS_TESTS ?= tests/svr tests/kernels tests/stack tests/features
BLAS_PART := --ignore=tests/features/molecules \
	-k 'not scikit_learn_estimator or equivalence or invariance or idempotent or not_an_array or regressors_int or y_2d or pickle or consistency'
BLAS_PYTEST := $(BIN)/python -m pytest -q -n 2 -m 'not slow and not index and not gpu' $(BLAS_TESTS) $(BLAS_PART)
test-blas: $(VENV)/.ready-to-test
	if grep -qw avx2 /proc/cpuinfo; then $(ONE_THREAD) OPENBLAS_CORETYPE=Haswell $(BLAS_PYTEST); fi
	if grep -qw avx /proc/cpuinfo; then OMP_NUM_THREADS=2 OPENBLAS_NUM_THREADS=2 OPENBLAS_CORETYPE=Sandybridge $(BLAS_PYTEST); fi

packaging: $(VENV)/.ready-to-test
	$(BIN)/python -m pytest -m index tests/packaging

# The pages lie in build/docs/pages as in the repository, so that links lead to the same places.
DOCS := build/docs
docs: $(VENV)/.ready-to-test
	rm -rf $(DOCS) && mkdir -p $(DOCS)/pages
	tar -cf - README.md CONTRIBUTING.md CHANGELOG.md docs benchmarks/results/*.md | tar -xf - -C $(DOCS)/pages
	cp docs/mkdocs.yml $(DOCS)
	PYTHONPATH=$(CURDIR) $(BIN)/zensical build --strict --config-file $(DOCS)/mkdocs.yml

EXPORT := $(BIN)/uv export --quiet --no-hashes --no-emit-project --no-annotate --no-header --extra chem --extra h5ad --extra cluster
TOOLS := $(BIN)/uv pip compile --quiet --generate-hashes --universal --python-version 3.11 --no-header --no-annotate
lock: $(VENV)/.ready-to-test
	$(BIN)/uv lock
	$(EXPORT) --extra cpu --output-file docker/constraints/cpu.txt
	$(EXPORT) --extra gpu-cu12 --output-file docker/constraints/gpu-cu12.txt
	$(EXPORT) --extra gpu-cu13 --extra chemberta --output-file docker/constraints/gpu-cu13.txt
	printf 'hatchling>=1.25\nuv==%s\n' "$$($(BIN)/uv --version | cut -d' ' -f2)" | $(TOOLS) --output-file docker/constraints/tools.txt -

bench-pipeline: $(VENV)/.ready-to-run
	$(BIN)/python -m benchmarks.pipeline

# himalaya is a yardstick that only the benchmark needs.
bench-svr: $(VENV)/.ready-to-run
	$(PIP) install --quiet $(PIP_FLAGS) --editable '.[chem,cpu,bench]'
	$(ONE_THREAD) $(BIN)/python -m benchmarks.svr.speed
	$(ONE_THREAD) $(BIN)/python -m benchmarks.svr.accuracy
	$(ONE_THREAD) $(BIN)/python -m benchmarks.svr.parts

# category_encoders and rxnmapper's weights are in the test environment.
bench-features: $(VENV)/.ready-to-test
	$(ONE_THREAD) $(BIN)/python -m benchmarks.features.encoders
	$(BIN)/python -m benchmarks.features.neighbours

# CatBoost and LightGBM are rivals that only the benchmark needs.
bench-boosting: $(VENV)/.ready-to-run
	$(PIP) install --quiet $(PIP_FLAGS) --editable '.[chem,cpu,bench]'
	$(ONE_THREAD) $(BIN)/python -m benchmarks.boosting.speed

bench-evaluation: $(VENV)/.ready-to-run
	$(ONE_THREAD) $(BIN)/python -m benchmarks.evaluation

# himalaya and CatBoost are rivals that only the benchmark needs. BENCH_ACCURACY="--tuned FILE.toml --plot FILE.png"
BENCH_ACCURACY ?=
bench-accuracy: $(VENV)/.ready-to-run
	$(PIP) install --quiet $(PIP_FLAGS) --editable '.[chem,cpu,bench]'
	$(ONE_THREAD) $(BIN)/python -m benchmarks.accuracy.compare $(BENCH_ACCURACY)
	$(ONE_THREAD) $(BIN)/python -m benchmarks.accuracy.ablation

bench-atlas: $(VENV)/.ready-to-run
	$(ONE_THREAD) $(BIN)/python -m benchmarks.accuracy.atlas

bench-contexts: $(VENV)/.ready-to-run
	$(ONE_THREAD) $(BIN)/python -m benchmarks.accuracy.contexts

# The recipes with nets on two tasks, and the blend alone on unseen compounds, where its nets count nothing.
COMPARE := $(ONE_THREAD) $(BIN)/python -m benchmarks.accuracy.compare
comma := ,
WINNERS := first_place,second_place,third_place,fourth_place,scape,jn_ap
bench-nets: $(VENV)/.ready-to-test
	$(PIP) install --quiet $(PIP_FLAGS) --editable '.[chem,cpu,nets,bench]'
	$(BIN)/python -m benchmarks.nets
	$(COMPARE) --tasks 'test rows' --no-demo --json benchmarks/results/accuracy_nets.json \
		--recipes $(WINNERS),published,best_with_nets,best \
		--methods '$(subst $(comma),;,$(WINNERS));published;best_with_nets;CatBoost;additive;shrunken_compound_mean'
	$(COMPARE) --tasks 'unseen compound;unseen cell type;demo, test rows' --methods 'best_with_nets;scape;additive' \
		--json benchmarks/results/accuracy_nets_tasks.json --recipes scape,best_with_nets,best

bench-signatures: $(VENV)/.ready-to-run
	$(ONE_THREAD) $(BIN)/python -m benchmarks.predictions.signatures

bench-next: $(VENV)/.ready-to-run
	$(ONE_THREAD) $(BIN)/python -m benchmarks.predictions.next

bench-objectives: $(VENV)/.ready-to-run
	$(ONE_THREAD) $(BIN)/python -m benchmarks.accuracy.objectives

bench-batches: $(VENV)/.ready-to-run
	$(BIN)/python -m benchmarks.predictions.big_batches
	$(BIN)/python -m benchmarks.predictions.big_batches --rank

bench-cluster: $(VENV)/.ready-to-test
	$(BIN)/python -m benchmarks.cluster

fuzz: $(VENV)/.ready-to-test
	$(ONE_THREAD) $(BIN)/python -m benchmarks.faults.fuzz

campaign: $(VENV)/.ready-to-test
	$(ONE_THREAD) $(BIN)/python -m benchmarks.faults.campaign

bench-scale: $(VENV)/.ready-to-run
	$(PIP) install --quiet $(PIP_FLAGS) --editable '.[chem,cpu,bench]'
	$(BIN)/python -m benchmarks.scale

bench-screen: $(VENV)/.ready-to-run
	$(BIN)/python -m benchmarks.studies.screen

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "$(PYTHON) is older than 3.11; name another one: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
	  echo "python's venv module is incomplete here (on Debian and Ubuntu: apt install python3-venv)" >&2; exit 1; }

# Enough to run the pipeline with Morgan fingerprints on a CPU: about 1.1 GB, no PyTorch.
$(VENV)/.ready-to-run: pyproject.toml | $(BIN)/python
	$(PIP) install --quiet $(PIP_FLAGS) --editable '.[chem,cpu]'
	@touch $@

# Everything. rxnmapper and Py-Boost come without their dependencies: the tests use only the weights that the one
# carries, and the other asks for an old treelite.
$(VENV)/.ready-to-test: pyproject.toml | $(BIN)/python
	$(PIP) install --quiet $(PIP_FLAGS) --editable '.[chem,chemberta,cpu,h5ad,cluster,dev]' '$(TORCH)'
	$(PIP) install --quiet $(PIP_FLAGS) --no-deps rxnmapper==0.4.3 py-boost==0.5.2
	@touch $@ $(VENV)/.ready-to-run

# A package index behind a certificate of your own: make image BUILD_FLAGS="--secret id=pip_cert,src=CA.pem"
image:
	docker build -f docker/Dockerfile -t rapids-perturb $(BUILD_FLAGS) .

image-cpu:
	docker build -f docker/Dockerfile -t rapids-perturb:cpu --build-arg BASE_IMAGE=debian:12-slim \
	  --build-arg EXTRAS="chem cpu h5ad cluster" $(BUILD_FLAGS) .

image-check:
	$(PYTHON) docker/check/image.py

# As docs/guide/install.md has it for pip, with the tests' tools.
venv-gpu: $(VENV_GPU)/.ready
$(VENV_GPU)/.ready: pyproject.toml docker/constraints/gpu-cu13.txt
	$(PYTHON) -m venv $(VENV_GPU)
	$(VENV_GPU)/bin/python -m pip install --quiet $(PIP_FLAGS) --constraint docker/constraints/gpu-cu13.txt \
	  --editable '.[chem,chemberta,h5ad,cluster,gpu-cu13,dev]'
	$(VENV_GPU)/bin/python -m pip install --quiet $(PIP_FLAGS) --no-deps py-boost==0.5.2 treelite_runtime==3.9.1 \
	  rxnmapper==0.4.3
	@touch $@

# In an environment of your own: make gpu-check GPU_PYTHON=python GPU_CHECK='--only frames'
GPU_PYTHON ?= $(VENV_GPU)/bin/python
GPU_CHECK ?=
gpu-check: nvidia-driver $(if $(filter $(VENV_GPU)/bin/python,$(GPU_PYTHON)),$(VENV_GPU)/.ready)
	$(GPU_PYTHON) -m benchmarks.gpu.check $(GPU_CHECK)

# Before gigabytes are fetched.
nvidia-driver:
	@$(PYTHON) -c 'import ctypes; ctypes.CDLL("libcuda.so.1")' 2>/dev/null || \
	  { echo "the NVIDIA driver (libcuda.so.1) is missing: gpu-check needs a GPU, docs/guide/gpu.md" >&2; exit 3; }

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
