# Every target works on a fresh clone: what it needs is made first.
PYTHON ?= python3
VENV := .venv
READY := $(VENV)/.ready
EXTRAS := $(VENV)/.extras
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)

.PHONY: in-git help setup extras repro figures report look test lint bench scaling learning-curve verify-export harness clean-scratch

help:  ## Show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 22

setup: $(READY)  ## Make .venv from the lock file

in-git:  # DVC works in a Git repository alone; a folder that was unpacked from an archive is none yet
	@git rev-parse --git-dir >/dev/null 2>&1 || { echo "expected a Git repository, got a folder without .git: run git init first" >&2; exit 2; }

$(READY): requirements.lock | in-git
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and f"expected Python 3.11 or newer, got {sys.version.split()[0]}; try make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --disable-pip-version-check -r requirements.lock
	@touch $@

extras: $(EXTRAS)  ## Add the optional libraries: datasets, Ray, llama.cpp, ONNX, lm_eval, FastAPI

$(EXTRAS): $(READY) requirements-extras.lock
	$(VENV)/bin/pip install --quiet --disable-pip-version-check -r requirements-extras.lock
	@touch $@

repro: $(READY)  ## Run what has to run of the pipeline, then show what it came to
	@python -m llm check
	@dvc repro
	@python -m llm summary

figures: $(READY)  ## Write the last run's figures into README.md and docs/
	@python -m llm figures

report: $(READY)  ## Open the report page
	@test -f reports/report.html || dvc repro report
	@echo reports/report.html
	@python -m webbrowser -t "file://$(CURDIR)/reports/report.html"

look: $(READY)  ## Open the model in a browser
	@test -f reports/model.html || dvc repro report
	@echo reports/model.html
	@python -m webbrowser -t "file://$(CURDIR)/reports/model.html"

test: $(EXTRAS)  ## Run all tests
	@OMP_NUM_THREADS=1 python -m pytest -n 2 --dist loadfile

lint: $(READY)  ## Check format, rules and types
	@ruff format --check .
	@ruff check .
	@mypy

# Run on their own, python -m bench.NAME: shakespeare, plan and planning_runs need a text, ablations half an hour, gpu a
# GPU; parity measures no speed.
APART := $(addprefix bench/,shakespeare.py plan.py planning_runs.py ablations.py gpu.py parity.py)
bench: $(READY)  ## Run the benchmarks
	@for script in $(filter-out $(APART),$(wildcard bench/*.py)); do echo "== $$script"; python -m bench.$$(basename $$script .py) || exit 1; done

scaling: $(READY)  ## Train a ladder of sizes and predict the next one (LADDER=large takes hours)
	@dvc repro sample
	@python -m llm scaling $(LADDER)

learning-curve: $(READY)  ## Measure the value of pretraining in labeled rows (TASK=library; minutes)
	@test -f models/export/hf/config.json || dvc repro export
	@python -m llm learning-curve $(TASK)

verify-export: $(EXTRAS)  ## Load the export with Transformers, llama.cpp and ONNX Runtime, and compare
	@test -f models/export/hf/config.json || dvc repro export
	@python -m llm verify-export

harness: $(EXTRAS)  ## Score the cloze tasks with lm-evaluation-harness, and compare
	@test -f models/export/hf/config.json || dvc repro export
	@test -d data/cloze || dvc repro cloze
	@python -m llm harness

clean-scratch:  ## Remove the work of killed runs
	@find -L .scratch data metrics models plots reports -name .scratch -prune -exec sh -c 'rm -rf "$$1"/*' - {} \; 2>/dev/null || true
