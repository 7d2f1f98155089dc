"""config.yaml: defaults, and one clear error for each fault."""

import ipaddress
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import yaml

from engine.config import SECTIONS, Address, Config, ConfigError, Listen, build, load, read

SHIPPED = Path(__file__).resolve().parents[2] / "config.yaml"


def test_shipped_file_lists_every_key_with_its_default() -> None:
    assert load(SHIPPED, {}) == Config()
    document = yaml.safe_load(SHIPPED.read_text())
    assert set(document) == {field.name for field in fields(Config)}
    for name, section in SECTIONS.items():
        assert set(document[name]) == {field.name for field in fields(section)}, name


def test_defaults_of_the_contract() -> None:
    config = Config()
    assert config.sip.listen == (Listen("udp", "127.0.0.1", 5080),)
    assert ipaddress.ip_network("127.0.0.0/8") in config.sip.trusted_peers
    assert config.timers.pre_ringing_s == 5.0
    assert config.limits.forwards_per_line == 50
    assert config.redis.embedded
    assert config.redis.data_dir == Path("data")
    assert config.admin.listen == Address("127.0.0.1", 9100)


@pytest.mark.parametrize("text", ["", "# only a comment\n", "sip:\ntimers: {}\n", "---\n"])
def test_every_key_and_section_is_optional(tmp_path: Path, text: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    assert load(path, {}) == Config()


def test_a_misspelt_key_is_answered_with_the_one_that_may_be_meant() -> None:
    with pytest.raises(ConfigError, match=r"sip\.listn: unknown key, did you mean listen\?"):
        read({"sip": {"listn": []}})


def test_no_path_takes_the_file_in_the_current_directory_if_there_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert load(None, {}) == Config()
    Path("config.yaml").write_text("workers: 3")
    assert load(None, {}).workers == 3


@pytest.mark.parametrize(
    ("text", "listen"),
    [
        ("udp:10.0.0.1:5060", Listen("udp", "10.0.0.1", 5060)),
        ("tcp:[::1]:5061", Listen("tcp", "::1", 5061)),
        ("tls:[2001:DB8::0:1]:0", Listen("tls", "2001:db8::1", 0)),
    ],
)
def test_listening_addresses_are_parsed(text: str, listen: Listen) -> None:
    config = read({"sip": {"listen": [text]}})
    assert config.sip.listen == (listen,)
    assert config.sip.listen[0].ipv6 is (":" in listen.host)
    assert read({"sip": {"listen": [str(listen)]}}) == config


@pytest.mark.parametrize(
    ("document", "path", "value"),
    [
        ({"spi": {}}, "spi", {}),
        ({"sip": {"lisen": 1}}, "sip.lisen", 1),
        ({"sip": []}, "sip", []),
        ([], "config", []),
        ({"sip": {"listen": "udp:127.0.0.1:5080"}}, "sip.listen", "udp:127.0.0.1:5080"),
        ({"sip": {"listen": []}}, "sip.listen", []),
        ({"sip": {"listen": ["127.0.0.1:5080"]}}, "sip.listen", ["127.0.0.1:5080"]),
        ({"sip": {"listen": ["ws:127.0.0.1:5080"]}}, "sip.listen", ["ws:127.0.0.1:5080"]),
        ({"sip": {"listen": ["udp:::1:5080"]}}, "sip.listen", ["udp:::1:5080"]),
        ({"sip": {"listen": ["udp:127.0.0.1:70000"]}}, "sip.listen", ["udp:127.0.0.1:70000"]),
        ({"sip": {"listen": ["udp:127.0.0.1"]}}, "sip.listen", ["udp:127.0.0.1"]),
        ({"sip": {"trusted_peers": ["10.0.0.1/8"]}}, "sip.trusted_peers", ["10.0.0.1/8"]),
        ({"sip": {"trusted_peers": ["10.0.0.0/40"]}}, "sip.trusted_peers", ["10.0.0.0/40"]),
        ({"sip": {"outbound_proxy": "10.0.0.1"}}, "sip.outbound_proxy", "10.0.0.1"),
        ({"sip": {"advertise": "300.1.1.1"}}, "sip.advertise", "300.1.1.1"),
        ({"sip": {"advertise": "a b"}}, "sip.advertise", "a b"),
        ({"sip": {"advertise": "2001:db8::1"}}, "sip.advertise", "2001:db8::1"),
        (
            {"sip": {"advertise": "192.0.2.1", "listen": ["udp:[::1]:5080"]}},
            "sip.advertise",
            "192.0.2.1",
        ),
        ({"sip": {"registrar": "yes"}}, "sip.registrar", "yes"),
        ({"sip": {"realm": 'a"b'}}, "sip.realm", 'a"b'),
        ({"numbering": {"voicemail_codes": [888]}}, "numbering.voicemail_codes", [888]),
        ({"numbering": {"voicemail_codes": ["06123x"]}}, "numbering.voicemail_codes", ["06123x"]),
        ({"numbering": {"star_codes": "yes"}}, "numbering.star_codes", "yes"),
        ({"destinations": {"fax": "sip:{numbr}@h"}}, "destinations.fax", "sip:{numbr}@h"),
        ({"destinations": {"fax": "sip:{number@h"}}, "destinations.fax", "sip:{number@h"),
        ({"destinations": {"fax": "{number}@h"}}, "destinations.fax", "{number}@h"),
        ({"destinations": {"fax": "sip:a@h:99999"}}, "destinations.fax", "sip:a@h:99999"),
        ({"destinations": {"fax": "sip:a@h>;x"}}, "destinations.fax", "sip:a@h>;x"),
        ({"destinations": {"fax": "sip:a@"}}, "destinations.fax", "sip:a@"),
        ({"numbering": {"country": "XX"}}, "numbering.country", "XX"),
        (
            {"numbering": {"forward_countries": ["FR", "XX"]}},
            "numbering.forward_countries",
            ["FR", "XX"],
        ),
        (
            {"numbering": {"forward_countries": ["FR", False]}},
            "numbering.forward_countries",
            ["FR", False],
        ),  # NO without quotes
        ({"numbering": {"forward_countries": "FR"}}, "numbering.forward_countries", "FR"),
        ({"numbering": {"also_valid": ["0700"]}}, "numbering.also_valid", ["0700"]),
        ({"numbering": {"also_valid": [33700]}}, "numbering.also_valid", [33700]),
        ({"numbering": {"also_valid": ["+999"]}}, "numbering.also_valid", ["+999"]),
        ({"numbering": {"country": False}}, "numbering.country", False),
        ({"numbering": {"timezone": "Paris"}}, "numbering.timezone", "Paris"),
        ({"numbering": {"timezone": "../etc"}}, "numbering.timezone", "../etc"),
        ({"timers": {"pre_ringing_s": "5"}}, "timers.pre_ringing_s", "5"),
        ({"timers": {"pre_ringing_s": 0}}, "timers.pre_ringing_s", 0),
        ({"timers": {"max_ring_s": -1}}, "timers.max_ring_s", -1),
        ({"timers": {"max_ring_s": float("nan")}}, "timers.max_ring_s", None),
        ({"timers": {"drain_s": True}}, "timers.drain_s", True),
        ({"timers": {"drain_s": None}}, "timers.drain_s", "null"),
        ({"limits": {"calls": 1.5}}, "limits.calls", 1.5),
        ({"limits": {"calls": -1}}, "limits.calls", -1),
        ({"rules": {"when_unavailable": "drop"}}, "rules.when_unavailable", "drop"),
        ({"rules": {"live_count": []}}, "rules.live_count", []),
        ({"redis": {"url": "http://localhost"}}, "redis.url", "http://localhost"),
        ({"redis": {"url": "redis://h:99999"}}, "redis.url", "redis://h:99999"),
        ({"redis": {"url": "redis+sentinel://h:1"}}, "redis.url", "redis+sentinel://h:1"),
        ({"redis": {"url": 5}}, "redis.url", 5),
        ({"admin": {"listen": "9100"}}, "admin.listen", "9100"),
        ({"log": {"level": "loud"}}, "log.level", "loud"),
        ({"workers": 0}, "workers", 0),
        ({"workers": "2"}, "workers", "2"),
    ],
)
def test_a_wrong_key_or_value_is_refused_by_name(document: Any, path: str, value: object) -> None:
    with pytest.raises(ConfigError) as refused:
        read(document)
    assert refused.value.path == path
    assert str(refused.value).startswith(f"{path}: ")
    if value is not None:
        assert refused.value.value == value
        assert repr(value) in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("document", "path"),
    [
        ({"workers": 3, "admin": {"listen": "127.0.0.1:65534"}}, "admin.listen"),
        ({"sip": {"listen": ["udp:127.0.0.1:5080", "udp:127.0.0.1:5080"]}}, "sip.listen[1]"),
        (
            {"workers": 2, "sip": {"listen": ["tcp:127.0.0.1:5080", "tls:127.0.0.1:5081"]}},
            "sip.listen[1]",
        ),
        ({"sip": {"listen": ["tcp:127.0.0.1:9100"]}}, "admin.listen"),
    ],
)
def test_ports_of_all_workers_exist_and_do_not_collide(document: Any, path: str) -> None:
    with pytest.raises(ConfigError) as refused:
        read(document)
    assert refused.value.path == path


def test_udp_and_tcp_share_a_port_and_any_free_port_collides_with_no_other() -> None:
    read({"sip": {"listen": ["udp:127.0.0.1:9100", "tcp:127.0.0.1:5080", "udp:127.0.0.1:5080"]}})
    read({"sip": {"listen": ["udp:127.0.0.1:0", "udp:127.0.0.1:0"]}, "workers": 4})


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"sip: [", "is not YAML"),
        (b"workers: 1\nworkers: 2\n", "written twice"),
        (b"\xff\xfe\x00", "is not UTF-8"),
        (b"a: &x 1\n<<: *x\n", "is not YAML"),
        (b"? [1]\n: 2\n", "is not YAML"),
        (b"!!python/object:os.system {}\n", "is not YAML"),
        (b"\x00", "is not YAML"),
        (b"[" * 5000, "is not YAML"),
    ],
)
def test_a_file_that_is_no_yaml_is_one_line_with_its_name(
    tmp_path: Path, content: bytes, text: str
) -> None:
    path = tmp_path / "config.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError) as refused:
        load(path, {})
    assert text in str(refused.value)
    assert str(path) in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_named_file_must_exist(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"missing\.yaml: cannot be read"):
        load(tmp_path / "missing.yaml", {})
    with pytest.raises(ConfigError, match="cannot be read"):
        load(tmp_path, {})


@pytest.mark.parametrize("name", ["a" * 300, "~no.such.user/key.pem"])
def test_a_file_that_cannot_be_looked_at_is_refused_by_its_key(name: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read({"sip": {"tls_key": name}})
    assert caught.value.path == "sip.tls_key"


def test_a_directory_of_others_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as /etc/letsencrypt/live for a key, or the directory in which sudo leaves a command."""

    def refuses(_path: Path) -> bool:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "is_file", refuses)
    monkeypatch.setattr(Path, "exists", refuses)
    monkeypatch.setattr(Path, "read_text", lambda path, **_: refuses(path))
    with pytest.raises(ConfigError, match=r"^sip\.tls_key: .*: Permission denied \(got '/k'\)"):
        read({"sip": {"tls_key": "/k"}})
    with pytest.raises(ConfigError, match=r"^config\.yaml: cannot be read: Permission denied"):
        load(None, {})


def test_the_environment_overrides_the_redis_url_and_keeps_secrets_out_of_texts() -> None:
    config = load(SHIPPED, {"RENVOI_REDIS_URL": "redis://me:hunter2@10.0.0.1:6380/1"})
    assert config.redis.url == "redis://me:hunter2@10.0.0.1:6380/1"
    assert config.redis.safe_url == "redis://***@10.0.0.1:6380/1"
    assert "hunter2" not in repr(config)
    for bad in ("http://me:hunter2@h", "redis://me:hunter2@h:0", "redis://me:hun/hunter2@h:x"):
        with pytest.raises(ConfigError, match="RENVOI_REDIS_URL") as refused:
            load(SHIPPED, {"RENVOI_REDIS_URL": bad})
        assert "hunter2" not in str(refused.value)
        with pytest.raises(ConfigError) as refused:
            read({"redis": {"url": bad}})
        assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize(
    "document",
    [
        {"trace": {"otlp": "http://me:hunter2@collector:4318"}},
        {"redis": {"uri": "redis://me:hunter2@10.0.0.1"}},
        {"redis": "redis://me:hunter2@10.0.0.1"},
        {"redis": {"url": ["redis://me:hunter2@" + 120 * "a"]}},
        {"redis": {"tls": "rediss://h?sentinel_password=hunter2&ca=x"}},
    ],
)
def test_no_error_shows_the_password_of_a_url(document: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="got ") as refused:
        read(document)
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize(
    "url",
    [
        "redis://localhost",
        "rediss://u:p@h:6379/2",
        "unix:///run/redis.sock",
        "redis+sentinel://a:26379,b:26379/mymaster",
        "redis+cluster://a:6379,b:6379",
        "redis://[::1]:6379",
    ],
)
def test_forms_of_redis_url(url: str) -> None:
    assert read({"redis": {"url": url}}).redis.url == url


@pytest.mark.parametrize(
    "template",
    [
        "sip:{number}@10.0.0.1",
        "sips:{national}@gw.example.net:5061;transport=tls",
        "sip:vm-{national}@[2001:db8::1]:5060;lr?x=y",
        "sip:gateway.example.net",
    ],
)
def test_forms_of_destinations(template: str) -> None:
    assert read({"destinations": {"voicemail": template}}).destinations.voicemail == template


def test_a_host_name_is_no_longer_than_names_can_be() -> None:
    longest = ".".join(["a" * 62] * 4)
    assert read({"sip": {"advertise": longest}}).sip.advertise == longest
    with pytest.raises(ConfigError, match=r"sip\.advertise"):
        read({"sip": {"advertise": f"{longest}.aa"}})


def test_standby_needs_a_redis_that_outlives_the_host() -> None:
    document = {"calls": {"standby": "redis"}}
    with pytest.raises(ConfigError, match=r"^calls\.standby: .*embedded \(got 'redis'\)"):
        build(document, {})
    config = build(document, {"RENVOI_REDIS_URL": "redis://192.0.2.1"})
    assert config.calls.standby == "redis"


@pytest.mark.parametrize(
    ("document", "error"),
    [
        (
            {"sip": {"register_min_s": 600, "register_max_s": 300}},
            "sip.register_min_s: expected at most sip.register_max_s, which is 300 (got 600)",
        ),
        (
            {"sip": {"register_max_s": 30}},  # below the default of the other
            "sip.register_min_s: expected at most sip.register_max_s, which is 30 (got 60)",
        ),
    ],
)
def test_the_longest_registration_is_not_below_the_shortest(document: Any, error: str) -> None:
    with pytest.raises(ConfigError) as refused:
        read(document)
    assert str(refused.value) == error


def test_the_shortest_registration_may_be_the_longest_too() -> None:
    read({"sip": {"register_min_s": 300, "register_max_s": 300}})


def test_a_key_for_redis_needs_its_certificate(tmp_path: Path) -> None:
    key = tmp_path / "key.pem"
    key.write_text("")
    document = {"redis": {"url": "rediss://192.0.2.1", "tls_key": str(key)}}
    with pytest.raises(ConfigError, match=r"^redis\.tls_key: needs redis\.tls_certificate \(got "):
        build(document, {})
