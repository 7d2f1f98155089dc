# make run    set everything up and serve           make test   set everything up, run all tests
# make demo   real calls through a real engine      make bench  measure it
# make lint   ruff and mypy                         make install  only set up
# ARGS passes options on:  make run ARGS="--config my.yaml"    make test ARGS="tests/unit -x"
SHELL := /bin/bash
ARGS ?=
# Most tests wait for timers: two cores carry several modules at once. 0 = one after the other.
TESTS_AT_ONCE ?= 3
VENV := .venv
READY := $(VENV)/.installed
# The SIP core in C, for as long as its sources say the same: setup.py.
COMPILED := $(VENV)/.compiled
CORE := setup.py $(wildcard sip/core/*.py sip/core/*.pxd)
API_VENV := .venv-api
API_READY := $(API_VENV)/.installed
AXE := $(VENV)/axe/node_modules/axe-core/axe.min.js

# The first interpreter that really is Python 3.11 or 3.12 (a name on the PATH may be an empty shim).
PYTHON ?= $(shell for p in python3.12 python3.11 python3; do \
	$$p -c 'import sys; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))' 2>/dev/null \
	&& { echo $$p; break; }; done)

as_root = $$([ "$$(id -u)" -eq 0 ] || echo sudo)
apt_install = { $(as_root) apt-get update -q && \
	$(as_root) env DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends $(1); }

.PHONY: run test demo bench lint install

run: install
	$(VENV)/bin/renvoi serve $(ARGS)

test: install $(API_READY)
	@command -v sipp >/dev/null || $(call apt_install,sip-tester)
	@command -v redis-server >/dev/null || $(call apt_install,redis-server)
	@command -v openssl >/dev/null || $(call apt_install,openssl)
	@command -v ip >/dev/null || [ -x /usr/sbin/ip ] || $(call apt_install,iproute2)
	@command -v dnsmasq >/dev/null || [ -x /usr/sbin/dnsmasq ] || $(call apt_install,dnsmasq-base)
	@command -v faketime >/dev/null || $(call apt_install,faketime)
	@command -v baresip >/dev/null || $(call apt_install,baresip-core)
	@command -v kamailio >/dev/null || [ -x /usr/sbin/kamailio ] || $(call apt_install,kamailio)
	@ls /usr/lib/*/kamailio/modules/ndb_redis.so >/dev/null 2>&1 || \
		$(call apt_install,kamailio-redis-modules)
	@command -v systemd-analyze >/dev/null || $(call apt_install,systemd)
	@command -v promtool >/dev/null || $(call apt_install,prometheus)
	@command -v chromium >/dev/null || $(call apt_install,chromium fonts-dejavu-core)
	@[ -f $(AXE) ] || { command -v npm >/dev/null || $(call apt_install,npm); \
		npm install --prefix $(VENV)/axe --no-save --no-audit --no-fund --silent axe-core@4.14.1; }
	$(VENV)/bin/python -m pytest -n $(TESTS_AT_ONCE) $(ARGS)

demo: install
	$(VENV)/bin/renvoi demo $(ARGS)

bench: install
	@command -v sipp >/dev/null || $(call apt_install,sip-tester)
	$(VENV)/bin/python -m benchmarks $(ARGS)

lint: $(READY)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy

install: $(READY) $(COMPILED)

$(READY): requirements.lock pyproject.toml
	@set -euo pipefail; python='$(PYTHON)'; \
	if [ -z "$$python" ]; then $(call apt_install,python3 python3-venv); python=python3; fi; \
	"$$python" -c 'import ensurepip' 2>/dev/null || $(call apt_install,"$$(basename $$python)-venv"); \
	"$$python" -c 'import sys; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)) and \
	"renvoi needs Python 3.11 or 3.12: name one with make PYTHON=..., this is " + sys.version.split()[0])'; \
	$(VENV)/bin/python -c '' 2>/dev/null || "$$python" -m venv --clear $(VENV); \
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --only-binary :all: \
		--require-hashes -r requirements.lock; \
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps \
		--no-build-isolation --editable .; \
	touch $@

# A missing compiler stops nothing: the core then runs as Python, slower.
$(COMPILED): $(READY) $(CORE)
	@command -v cc >/dev/null || { [ "$$(id -u)" -eq 0 ] && $(call apt_install,gcc libc6-dev \
		libpython3-dev); } || echo "no C compiler: the SIP core runs uncompiled"
	@$(VENV)/bin/python setup.py --quiet build_ext || echo "the SIP core runs uncompiled"
	@touch $@

$(API_READY): requirements-api.lock $(READY)
	@$(VENV)/bin/python -m venv --clear $(API_VENV)
	@$(API_VENV)/bin/python -m pip install --quiet --disable-pip-version-check --only-binary :all: \
		--require-hashes -r requirements-api.lock
	@touch $@
