# make demo: the main job on real hosts, told in a page. make test: lint, unit tests, lab tests.
# Both need root on Debian 12, git and make; what else they need they install.
VENV := .venv
PYTHON := $(VENV)/bin/python
LAB := python3 test/lab/lab.py
HOST ?= gw1
# All machines of the lab have this Debian.
export DEBIAN ?= 12
# Three for each core: much of what tests of scripts do is to wait.
SCRIPT_WORKERS ?= $(shell expr 3 \* $$(nproc))

.PHONY: help demo up down shell test test-all lint unit scripts flows lab core faults bench bench-failover \
	measurements docs mutants golden versions kitchen clean

help:
	@echo 'make demo              set a site up, apply, break it, and tell what happened'
	@echo 'make test              lint, unit tests, tests of scripts and flows, lab tests'
	@echo 'make lint unit scripts flows lab  one of them alone; PYTEST_ARGS="-k name" selects tests'
	@echo 'make test-all          the same, and all lab tests that take long (1.5 hours)'
	@echo 'make core              lab tests of what each Debian has to do; DEBIAN=13 make core'
	@echo 'make faults            everything that is broken on purpose, and what came of it'
	@echo 'make bench             measurements; make bench-failover: how long failovers take'
	@echo 'make measurements      write what was measured last into docs/measurements.md'
	@echo 'make mutants           whether the unit tests notice a wrong line: 300 of them, half an hour'
	@echo 'make docs              write the reference of the pillar and its schema from the keys'
	@echo 'make golden            write the whole configurations that unit tests compare anew'
	@echo 'make versions          whether the daemons of other systems take what the formula writes'
	@echo 'make kitchen           Test Kitchen: a gateway, a pair (needs Docker, Ruby and bundler)'
	@echo 'make up | down         set the lab up, to stay, and for demo and test to use | remove it'
	@echo 'make shell HOST=gw1    a shell on master, gw1, gw2, backend01, internet or laptop'
	@echo 'make clean             remove everything that these made'

demo:
	python3 test/lab/demo.py

up:
	$(LAB) up

down:
	$(LAB) down

shell:
	$(LAB) shell $(HOST)

# With Debian 12 the core on 13 as well, in a lab of its own.
test: lint unit scripts flows lab
	[ $(DEBIAN) != 12 ] || $(MAKE) core DEBIAN=13 LAB_NAME=$${LAB_NAME:-gateway-lab}-13

test-all: lint unit scripts flows
	$(PYTHON) -m pytest test/lab $(PYTEST_ARGS)

$(VENV)/ready: test/requirements.txt test/setup
	test/setup $(VENV)
	touch $@

lint: $(VENV)/ready
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/yamllint --strict .
	$(VENV)/bin/salt-lint $$(git ls-files '*.sls' '*.jinja')
	shellcheck $$(git grep -lE '^#!(/usr)?/bin/(env )?(ba)?sh' -- ':!*.md')

unit: $(VENV)/ready
	$(PYTHON) -m pytest --numprocesses auto --dist worksteal test/unit -m 'not scripts' $(PYTEST_ARGS)

scripts: $(VENV)/ready
	$(PYTHON) -m pytest --numprocesses $(SCRIPT_WORKERS) --dist worksteal test/unit -m scripts $(PYTEST_ARGS)

flows: $(VENV)/ready
	$(PYTHON) -m pytest --numprocesses auto --dist worksteal test/flows $(PYTEST_ARGS)

lab: $(VENV)/ready
	$(PYTHON) -m pytest test/lab -m 'not long' $(PYTEST_ARGS)

core: $(VENV)/ready
	$(PYTHON) -m pytest test/lab -m 'core and not long' $(PYTEST_ARGS)

faults: $(VENV)/ready
	$(PYTHON) -m pytest test/lab/test_faults.py $(PYTEST_ARGS)

mutants: $(VENV)/ready
	$(PYTHON) test/mutants.py $(MUTANTS_ARGS)

docs: $(VENV)/ready
	$(PYTHON) docs/reference.py

golden: $(VENV)/ready
	$(PYTHON) -m pytest test/unit/test_golden.py --golden

versions:
	python3 test/versions/versions.py $(VERSIONS_ARGS)

kitchen: $(VENV)/ready
	bundle check || bundle install
	bundle exec kitchen test $(KITCHEN_ARGS)

bench: $(VENV)/ready
	$(PYTHON) test/bench/plan.py
	$(PYTHON) test/bench/apply.py
	$(PYTHON) test/bench/firewall.py
	$(PYTHON) test/bench/networks.py
	$(PYTHON) test/bench/dhcp.py
	$(PYTHON) test/bench/vpn.py

bench-failover: $(VENV)/ready
	$(PYTHON) test/bench/failover.py $(BENCH_ARGS)

measurements: $(VENV)/ready
	$(PYTHON) test/lab/measured.py

clean: down
	rm -rf $(VENV) test/lab/out
