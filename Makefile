# make run    set up and start the agent on the sample in state/
# make test   set up and run every test that this host can run
# make help   the rest
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUN_PACKAGES := python3-venv libnftables1 libseccomp2 busybox-static tini ca-certificates
TEST_PACKAGES := docker-registry nftables skopeo crun umoci prometheus apache2-utils iproute2 procps openssl gcc libc6-dev buildah git tinyproxy-bin microsocks wrk age openssh-client strace
VM_PACKAGES := qemu-system-x86 qemu-utils debootstrap e2fsprogs busybox-static cpio xz-utils

.PHONY: help run test lint test-vm bench clean packages
help:
	@grep -hE '^# make|^## ' Makefile | sed 's/^#* //'

$(VENV)/run.stamp: pyproject.toml .ci/debian-packages Makefile
	@.ci/debian-packages $(RUN_PACKAGES)
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing Python packages into $(VENV)"
	@$(BIN)/python -m pip install -q --disable-pip-version-check --config-settings editable_mode=compat -e .
	@touch $@

$(VENV)/test.stamp: $(VENV)/run.stamp
	@.ci/debian-packages $(TEST_PACKAGES)
	@$(BIN)/python -m pip install -q --disable-pip-version-check --config-settings editable_mode=compat -e '.[test]'
	@touch $@

## make run       the agent in the foreground on the sample desired state (STATE=DIR for your own)
STATE ?= state
run: $(VENV)/run.stamp
	@exec $(BIN)/holdfast agent --state $(STATE)

## make test      every test: architecture, unit, property and real-host (ARGS='-k name' to choose)
# Every agent, keeper and command that a test starts would compile all of its modules again.
test: export PYTHONDONTWRITEBYTECODE :=
test: $(VENV)/test.stamp
	@$(BIN)/python -m pytest -n 3 --dist loadscope --max-worker-restart 2 -m "not alone" $(ARGS) || [ $$? = 5 ]
	@$(BIN)/python -m pytest -n 1 --max-worker-restart 2 -m alone $(ARGS) || [ $$? = 5 ]

## make lint      ruff, mypy and import-linter alone
lint: $(VENV)/test.stamp
	@$(BIN)/ruff check agent tests && $(BIN)/ruff format --check agent tests && $(BIN)/mypy && $(BIN)/lint-imports

## make test-vm   systemd, cgroup v2, reboot and power cut in a throw-away Debian guest
test-vm: $(VENV)/test.stamp
	@.ci/debian-packages $(VM_PACKAGES)
	@$(BIN)/python -m pytest tests/vm -m vm -s $(ARGS)

## make bench     one table of speed, beside docker and podman where they are installed
bench: export PYTHONDONTWRITEBYTECODE :=
bench: $(VENV)/test.stamp
	@$(BIN)/python -m tests.bench $(ARGS)

## make clean     remove what make built here
clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache *.egg-info
