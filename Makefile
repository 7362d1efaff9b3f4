# make demo    set up, then grow a base model, an Alpaca and an Alpaca-LoRA from nothing, offline, and show what came of it
# make test    set up, then run every test
# make check   formatting, lint, types
# make bench   measure this machine and this code, in a minute or two; what was measured so far: docs/speed.md
# make bench-gpu     on one GPU: 1B full, 8B LoRA and QLoRA, and inference, beside transformers and peft, in eight minutes
# make bench-infer   decoding on this CPU beside llama.cpp (built here, which takes minutes) and transformers
# make bench-train   training on this CPU beside transformers, TRL and PEFT (RECORDS=alpaca.json TOKENIZER=tokenizer.model)
PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3)
VENV ?= .venv
RUN = $(VENV)/bin/
JOBS ?= 2

.PHONY: demo test check bench bench-infer bench-train bench-gpu setup clean

setup: $(VENV)/.core

$(VENV)/.core: pyproject.toml requirements/core.txt scripts/setup.py
	$(PYTHON) scripts/setup.py $(VENV) core
	touch $@

$(VENV)/.test: $(VENV)/.core requirements/test.txt
	$(PYTHON) scripts/setup.py $(VENV) test
	touch $@

demo: $(VENV)/.core
	$(RUN)camelid demo

test: $(VENV)/.test
	OMP_NUM_THREADS=1 $(RUN)python -m pytest -n $(JOBS) --dist worksteal

check: $(VENV)/.test
	$(RUN)ruff format --check .
	$(RUN)ruff check .
	$(RUN)mypy

bench: $(VENV)/.test
	$(RUN)python -m benchmarks

bench-infer: $(VENV)/.test
	CMAKE_ARGS="-DGGML_NATIVE=ON" $(RUN)python -m pip install --quiet -r requirements/bench.txt
	$(RUN)python benchmarks/infer_cpu.py --load --out benchmarks/results/infer_cpu.json

bench-gpu: $(VENV)/.core
	$(RUN)python benchmarks/gpu.py --look
	$(RUN)python -m pip install --quiet -r requirements/bench-gpu.txt
	$(RUN)python benchmarks/gpu.py --out benchmarks/results/gpu-$$(date +%F).json

bench-train: $(VENV)/.test
	$(RUN)python -m pip install --quiet -c requirements/pins.txt -r requirements/bench-train.txt
	$(RUN)python benchmarks/train_cpu.py $(if $(RECORDS),--records $(RECORDS) --tokenizer $(TOKENIZER))
	$(RUN)python benchmarks/memory_cpu.py
	$(RUN)python benchmarks/startup_cpu.py

clean:
	rm -rf $(VENV) build *.egg-info
