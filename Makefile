# make run    set everything up and serve           make test   set everything up, run all tests
# make demo   real calls through a real engine      make bench  measure it
# make lint   ruff and mypy                         make install  only set up
# make test-servers   beside real telephony servers (Asterisk, Kamailio): root, and a Debian mirror
# ARGS passes options on:  make run ARGS="--config my.yaml"    make test ARGS="tests/unit -x"
SHELL := /bin/bash
ARGS ?=
# Most tests wait for timers, so two cores can run several modules at once. 0 = one after the other.
TESTS_AT_ONCE ?= 4
VENV := .venv
READY := $(VENV)/.installed
DEV_READY := $(VENV)/.installed-dev
# The compiled SIP core, valid while its sources do not change: setup.py.
COMPILED := $(VENV)/.compiled
CORE := setup.py $(wildcard sip/*.py sip/*.pxd)
API_VENV := .venv-api
API_READY := $(API_VENV)/.installed
AXE := $(VENV)/axe/node_modules/axe-core/axe.min.js

# The first interpreter that really is Python 3.11 to 3.14 (a name on the PATH may be an empty shim).
# The system's own first: its headers are a package away.
FITS := import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 14))
PYTHON ?= $(shell for p in python3 python3.13 python3.14 python3.12 python3.11; do \
	$$p -c '$(FITS)' 2>/dev/null && { echo $$p; break; }; done)
PIP := -m pip --quiet --disable-pip-version-check
# Install a lock file with an environment's Python. Reports each package, because it takes minutes: in
# place on a terminal, otherwise a line now and then.
from_lock = $(1) -m pip --disable-pip-version-check install --progress-bar off --only-binary :all: \
	--require-hashes -r $(2) | { of=$$(grep -c '^[a-z].*==' $(2)); n=0; line='\n'; every=10; \
	[ ! -t 2 ] || { line='\r'; every=1; }; \
	while read -r word rest; do case $$word in \
		Collecting|Requirement) n=$$((n + 1)); [ $$((n % every)) -ne 0 ] || \
			printf "renvoi: %d of at most %d packages$$line" $$n $$of >&2;; \
		Installing) printf "renvoi: %d packages are here, unpacking them\n" $$n >&2;; \
	esac; done; }

say = echo "renvoi: $(1)" >&2
as_root = $$([ "$$(id -u)" -eq 0 ] || echo sudo)
# Whether apt works without a password. A fresh machine may be upgrading itself: apt waits for it.
may_apt = { command -v apt-get && { [ "$$(id -u)" -eq 0 ] || sudo -n true; }; } >/dev/null 2>&1
apt_install = { $(call say,apt installs $(1)); $(as_root) apt-get update -qq && \
	$(as_root) env DEBIAN_FRONTEND=noninteractive apt-get install -qqy --no-install-recommends \
	-o DPkg::Lock::Timeout=300 $(1) \
	>/dev/null; }

# Without a writable bytecode cache each test process would compile all modules again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: run test test-servers demo bench lint install

run: install
	$(VENV)/bin/renvoi serve $(ARGS)

test: install $(DEV_READY) $(API_READY)
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
	@[ -x /bin/kill ] || $(call apt_install,procps)
	@command -v promtool >/dev/null || $(call apt_install,prometheus)
	@command -v chromium-headless-shell >/dev/null || \
		$(call apt_install,chromium-headless-shell fonts-dejavu-core) || command -v chromium >/dev/null
	@[ -f $(AXE) ] || { command -v npm >/dev/null || $(call apt_install,npm); \
		npm install --prefix $(VENV)/axe --no-save --no-audit --no-fund --silent axe-core@4.14.1; }
	$(VENV)/bin/python -m pytest -n $(TESTS_AT_ONCE) $(ARGS)

# The servers are in a separate Debian in the temp directory, which is kept. ARGS=--rebuild makes it
# again, DEBIAN_MIRROR names the mirror. Without it these tests are skipped, with the reason.
test-servers: install $(DEV_READY)
	@command -v redis-server >/dev/null || $(call apt_install,redis-server)
	@command -v ip >/dev/null || [ -x /usr/sbin/ip ] || $(call apt_install,iproute2)
	@command -v baresip >/dev/null || $(call apt_install,baresip-core)
	@command -v kamailio >/dev/null || [ -x /usr/sbin/kamailio ] || $(call apt_install,kamailio)
	@command -v debootstrap >/dev/null || [ -x /usr/sbin/debootstrap ] || \
		$(call apt_install,debootstrap debian-archive-keyring) || true
	$(VENV)/bin/python -m tests.servers $(ARGS)

demo: install
	$(VENV)/bin/renvoi demo $(ARGS)

bench: install $(DEV_READY)
	@command -v sipp >/dev/null || $(call apt_install,sip-tester)
	$(VENV)/bin/python -m benchmarks $(ARGS)

lint: $(DEV_READY)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy

install: $(READY) $(COMPILED)

$(READY): requirements.lock pyproject.toml
	@set -euo pipefail; python='$(PYTHON)'; \
	if [ -z "$$python" ]; then $(call apt_install,python3 python3-venv); python=python3; fi; \
	"$$python" -c '$(FITS)' || { $(call say,needs Python 3.11 to 3.14: name one with make PYTHON=...; this \
		is $$("$$python" --version)); exit 1; }; \
	"$$python" -c 'import ensurepip' 2>/dev/null || $(call apt_install,"$$(basename $$python)-venv"); \
	$(VENV)/bin/python -c '$(FITS)' 2>/dev/null || { $(call say,an environment for $$("$$python" \
		--version) in $(VENV)); "$$python" -m venv --clear $(VENV); }; \
	$(call say,installing what Renvoi runs with (requirements.lock)); \
	$(call from_lock,$(VENV)/bin/python,requirements.lock); \
	$(VENV)/bin/python $(PIP) install --no-deps --no-build-isolation --editable .; \
	touch $@

$(DEV_READY): requirements-dev.lock $(READY)
	@$(call say,installing what it is tested with (requirements-dev.lock))
	@set -o pipefail; $(call from_lock,$(VENV)/bin/python,requirements-dev.lock)
	@touch $@

# Without a compiler the core runs as Python, slower, and the next `make install` with a compiler
# compiles it.
$(COMPILED): $(CORE) | $(READY)
	@python=$(VENV)/bin/python; why=$$($$python setup.py missing); \
	if [ -n "$$why" ] && $(may_apt); then \
		headers=$$($$python -c 'import sys; print("libpython%d.%d-dev" % sys.version_info[:2])'); \
		$(call apt_install,gcc libc6-dev $$headers); \
		why=$$($$python setup.py missing); \
	fi; \
	if [ -n "$$why" ]; then $(call say,the SIP core runs uncompiled: $$why); exit 0; fi; \
	$(call say,compiling the SIP core (a minute or two)); \
	$$python setup.py --quiet build_ext; \
	$$python -c 'import sys; from sip import compiled as c; sys.exit(not c.directory().is_dir())' \
		|| $(call say,the SIP core runs uncompiled: it did not compile); \
	touch $@

$(API_READY): requirements-api.lock $(READY)
	@$(call say,installing what the API is tested with (requirements-api.lock))
	@$(VENV)/bin/python -m venv --clear $(API_VENV)
	@set -o pipefail; $(call from_lock,$(API_VENV)/bin/python,requirements-api.lock)
	@touch $@
