"""The systemd units and the images, as far as they can be checked without running them."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from engine import config

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
COMPOSE = DEPLOY / "compose"
UNITS = sorted((DEPLOY / "systemd").glob("*.service"))
DOCKERFILES = sorted(DEPLOY.glob("*/Dockerfile"))
EXPOSED_AT_MOST = 1.5  # of 10, by systemd-analyze security


def run(*command: str | Path, **more: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        list(map(str, command)), capture_output=True, text=True, timeout=60, check=False, **more
    )


@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.name)
def test_systemd_accepts_the_unit(unit: Path, tmp_path: Path) -> None:
    # With the path of a program that exists.
    text = unit.read_text().replace("/opt/renvoi/current/.venv/bin/renvoi", "/bin/true")
    copy = tmp_path / unit.name
    copy.write_text(text)
    done = run("systemd-analyze", "verify", "--man=no", copy)
    ours = [line for line in done.stderr.splitlines() if unit.name in line]
    assert not ours


@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.name)
def test_the_unit_is_hardened(unit: Path) -> None:
    done = run("systemd-analyze", "security", "--offline=true", "--no-pager", unit)
    found = re.search(r"exposure level for \S+: ([\d.]+)", done.stdout)
    assert found, done.stdout + done.stderr
    assert float(found[1]) <= EXPOSED_AT_MOST


@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.name)
def test_the_unit_starts_a_command_that_there_is(unit: Path) -> None:
    started = re.search(r"^ExecStart=\S+/renvoi (\S+) --config \S+$", unit.read_text(), re.M)
    assert started
    assert run(sys.executable, "-m", "engine.cli", started[1], "--help", cwd=ROOT).returncode == 0


def test_the_unit_gives_the_time_that_a_drain_asks_for() -> None:
    """The engine extends its stop itself (EXTEND_TIMEOUT_USEC), which needs Type=notify."""
    text = (DEPLOY / "systemd" / "renvoi.service").read_text()
    for line in ("Type=notify", "KillMode=mixed", "KillSignal=SIGTERM", "Restart=always"):
        assert f"\n{line}\n" in text


@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.name)
def test_the_journal_outlives_its_unit(unit: Path) -> None:
    """systemd would delete all that the user has in /dev/shm when the last unit of the user ends,
    also before it restarts one (`RemoveIPC`, which one unit sets for all of the user)."""
    text = unit.read_text()
    assert re.search(r"^User=renvoi$", text, re.M)
    assert not re.search(r"^(RemoveIPC|DynamicUser)=(yes|true|on|1)", text, re.M | re.I)


@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.name)
def test_the_unit_is_restarted_however_often_it_ends(unit: Path) -> None:
    """By default systemd gives up after five starts within ten seconds."""
    for line in ("Restart=always", "StartLimitIntervalSec=0"):
        assert f"\n{line}\n" in unit.read_text()


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.parent.name)
def test_the_dockerfile_is_clean(path: Path) -> None:
    linter = Path(sys.executable).with_name("hadolint")
    done = run(linter, "--no-color", path)
    assert done.returncode == 0, done.stdout


def from_lines(path: Path) -> list[str]:
    return re.findall(r"^FROM (\S+)", path.read_text(), re.M)


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.parent.name)
def test_images_are_pinned_and_run_as_an_unprivileged_user(path: Path) -> None:
    for image in from_lines(path):
        assert re.search(r":\d+\.\d+", image), image
    user = re.findall(r"^USER (\d+):(\d+)$", path.read_text(), re.M)
    assert user
    assert int(user[-1][0]) > 1000


def test_the_image_gets_what_the_dockerfile_copies() -> None:
    text = (DEPLOY / "container" / "Dockerfile").read_text()
    wanted = {
        source
        for line in re.findall(r"^COPY (?!--from)(.+) \S+$", text, re.M)
        for source in line.split()
    }
    kept = {
        line[1:] for line in (ROOT / ".dockerignore").read_text().split() if line.startswith("!")
    }
    assert wanted == kept
    assert all((ROOT / name).exists() for name in wanted)
    packages = {"engine", "manager", "notify", "rules", "sip", "store"}
    assert packages <= wanted


def test_an_image_has_what_renvoi_runs_with_and_no_compiler() -> None:
    text = (DEPLOY / "container" / "Dockerfile").read_text()
    build, _, served = text.rpartition("\nFROM ")
    assert "-r requirements.lock" in build
    assert " gcc " in build
    assert "apt-get" not in served


# compose.yaml without Docker: each program checks the configuration that it would get.


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    whole: dict[str, Any] = yaml.safe_load((COMPOSE / "compose.yaml").read_text())
    return whole


SERVICE_KEYS = {
    "build", "image", "network_mode", "command", "environment", "volumes", "depends_on",
    "stop_grace_period", "shm_size", "read_only", "tmpfs", "cap_drop", "security_opt", "restart",
    "healthcheck",
}  # fmt: skip


def mounts(compose: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for service in compose["services"].values():
        for volume in service.get("volumes", ()):
            source, _, target = volume.partition(":")
            yield source, target


def test_compose_names_only_what_it_has(compose: dict[str, Any]) -> None:
    services = compose["services"]
    assert set(services) == {
        "redis", "renvoi", "manager", "notify", "kamailio", "prometheus", "grafana"
    }  # fmt: skip
    for name, service in services.items():
        assert set(service) <= SERVICE_KEYS, name
        if "build" not in service:
            assert re.search(r":v?\d+\.\d+\.\d+", service["image"]), name
        else:
            context = (COMPOSE / service["build"]["context"]).resolve()
            assert (context / service["build"].get("dockerfile", "Dockerfile")).is_file()
        for other in service.get("depends_on", ()):
            assert other in services
            if isinstance(service["depends_on"], dict):
                conditions = service["depends_on"][other]
                healthy = conditions["condition"] == "service_healthy"
                has_check = "healthcheck" in services[other] or other == "renvoi"
                assert has_check or not healthy
    for source, target in mounts(compose):
        assert target.startswith("/")
        if source.startswith("."):
            assert (COMPOSE / source).exists(), source
        else:
            assert source in compose["volumes"], source


def test_compose_gives_the_engine_a_configuration_it_takes(compose: dict[str, Any]) -> None:
    settings = config.load(COMPOSE / "renvoi.yaml", environ={})
    service = compose["services"]["renvoi"]
    grace = re.fullmatch(r"(\d+)m", service["stop_grace_period"])
    assert grace
    assert settings.timers.drain_s < 60 * int(grace[1])
    url = service["environment"]["RENVOI_REDIS_URL"]
    assert config.load(COMPOSE / "renvoi.yaml", {"RENVOI_REDIS_URL": url}).redis.url == url
    redis_server = " ".join(compose["services"]["redis"]["command"])
    assert url.endswith(redis_server.partition("--port ")[2].split()[0])


def test_compose_starts_kamailio_as_it_is_tested(compose: dict[str, Any], tmp_path: Path) -> None:
    kamailio = shutil.which("kamailio") or "/usr/sbin/kamailio"
    for name in ("dispatcher.list", "address.list"):
        shutil.copy(DEPLOY / "kamailio" / name, tmp_path)
    lists = [
        "-A", f'DISPATCHER_LIST="{tmp_path}/dispatcher.list"',
        "-A", f'ADDRESS_LIST="{tmp_path}/address.list"',
    ]  # fmt: skip
    command = compose["services"]["kamailio"]["command"]
    done = run(kamailio, "-c", "-f", DEPLOY / "kamailio" / "kamailio.cfg", *command, *lists)
    assert done.returncode == 0, done.stderr
    engines = (DEPLOY / "kamailio" / "dispatcher.list").read_text()
    listen = yaml.safe_load((COMPOSE / "renvoi.yaml").read_text())["sip"]["listen"][0]
    assert f"1 sip:{listen.removeprefix('udp:')} " in engines


def test_compose_gives_prometheus_a_configuration_it_takes(compose: dict[str, Any]) -> None:
    assert ("../prometheus", "/etc/prometheus:ro") in set(mounts(compose))
    command = " ".join(compose["services"]["prometheus"]["command"])
    assert "--config.file=/etc/prometheus/prometheus.yml" in command
    done = run("promtool", "check", "config", DEPLOY / "prometheus" / "prometheus.yml")
    assert done.returncode == 0, done.stdout + done.stderr


def test_compose_shows_grafana_the_dashboard_where_it_looks(compose: dict[str, Any]) -> None:
    provisioning = DEPLOY / "grafana" / "provisioning"

    def provisioned(kind: str) -> Any:
        return yaml.safe_load((provisioning / kind / "renvoi.yml").read_text())

    (provider,) = provisioned("dashboards")["providers"]
    targets = {target.partition(":")[0] for _, target in mounts(compose)}
    assert f"{provider['options']['path']}/renvoi.json" in targets
    (source,) = provisioned("datasources")["datasources"]
    listens = compose["services"]["prometheus"]["command"][1].partition("=")[2]
    assert source["url"] == f"http://{listens}"
