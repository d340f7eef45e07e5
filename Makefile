# `make demo` and `make test` need python3 (3.11 or later), make and pip; all else goes into .venv.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test test-oldest docs setup clean

demo: setup
	@test -d demo/data || $(BIN)/maskens sample demo/data --people 90 --size 192x256
	$(BIN)/maskens run --data demo/data --run demo/run --recipe demo --yes
	$(BIN)/maskens score --run demo/run --truth demo/data/eval/answers.csv
	@echo
	@echo "The 18-class CSV: demo/run/submission.csv     What it is worth: demo/run/report.html"
	@echo "Next, on your own photos:  . .venv/bin/activate  and  maskens run --data DIR"

test: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pytest

# The generated parts of docs/; the pictures take minutes and a Chromium or Chrome.
docs: setup
	$(BIN)/python -m typer cli.py utils docs --name maskens --title Commands --output docs/commands.md
	$(BIN)/python docs/pictures.py

# The core, without extras, with the oldest versions that pyproject.toml allows.
test-oldest: .venv-oldest/ready
	.venv-oldest/bin/pytest tests/test_security.py tests/models/test_models.py tests/recipes tests/training/test_train.py

.venv-oldest/ready: pyproject.toml constraints-oldest.txt
	$(PYTHON) -m venv .venv-oldest
	.venv-oldest/bin/python -m pip install --quiet --disable-pip-version-check -c constraints-oldest.txt -e . \
		pytest pytest-xdist hypothesis
	touch $@

setup: .venv/ready

.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

clean:
	rm -rf .venv .venv-oldest demo build *.egg-info
