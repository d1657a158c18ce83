# Everything happens in .venv; the lab's guests stay in tests/lab/guests between runs.

PYTHON ?= python3
BIN := .venv/bin
GUEST ?= hole-pti

.PHONY: demo test test-all guests check fuzz bench guest tools clean

# The processes of a real guest, with nothing but its two files.
demo: guest
	$(BIN)/vol -q --offline -f tests/lab/guests/$(GUEST)/debug.guest linux.pslist

# Two at a time, here and below: as many cores as a small machine has.
test: guests
	$(BIN)/python -m pytest -n 2 --dist worksteal

# With the tests of guests that are long in the making; each is made when a test asks for it.
test-all: guests
	$(BIN)/python -m pytest -n 2 --dist worksteal -m 'slow or not slow'

# Made before the tests, which would wait for each other's. Where one cannot be made, its tests fail,
# or are skipped if the machine lacks what the lab needs.
guests: .venv
	tests/lab/install-tools windows
	-$(BIN)/python -m tests.lab --all --jobs 2

# Half an hour of damaged input; one that goes wrong is kept in tests/fuzz/findings.txt.
SECONDS ?= 1800
fuzz: guest
	$(BIN)/python -m tests.fuzz --seconds $(SECONDS)

# A quarter of an hour; prints Markdown. The machine should have nothing else to do.
bench: .venv tools
	$(BIN)/python -m tests.lab 6.12 next big busy large >&2
	$(BIN)/python -m benchmarks

# What CI checks before it runs the tests.
check: .venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

guest: .venv tools
	$(BIN)/python -m tests.lab $(GUEST)

# Made anew when the package changes: what is installed is what a user would get.
.venv: setup.py pyproject.toml $(shell find volatility_guestdump symbols -name '*.py' -o -name '*.json')
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check '.[test]'
	rm -rf build volatility3_guestdump.egg-info
	touch .venv

# The lab boots its guests in QEMU.
tools:
	tests/lab/install-tools

clean:
	rm -rf .venv tests/lab/guests tests/lab/packages
