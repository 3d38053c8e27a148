"""Connection strings, as libpq reads them."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from walkeeper.errors import ConfigError
from walkeeper.links.conninfo import CONNECT_TIMEOUT_SECONDS, ConnectionInfo, SslMode, parse_conninfo


def parse(text: str, **environ: str) -> ConnectionInfo:
    return parse_conninfo(text, environ, login="login")


def test_keywords_and_values_are_read() -> None:
    info = parse("host=db port=5433 user=keeper dbname=app password=secret sslmode=require")
    assert (info.host, info.port, info.user, info.dbname, info.password) == ("db", 5433, "keeper", "app", "secret")
    assert info.sslmode is SslMode.REQUIRE


def test_an_account_without_a_name_needs_one_in_the_string() -> None:
    with pytest.raises(ConfigError):
        parse_conninfo("host=db", {}, login=None)
    assert parse_conninfo("host=db user=keeper", {}, login=None).dbname == "keeper"


def test_blanks_may_surround_the_equals_sign_and_quotes_keep_blanks() -> None:
    info = parse(r" host = db  password = 'it\'s \\ a secret'  user=a\ b ")
    assert (info.host, info.password, info.user) == ("db", r"it's \ a secret", "a b")


def test_a_uri_says_the_same() -> None:
    info = parse("postgresql://keeper:s%3Acret@db:5433/app?sslmode=verify-full&sslrootcert=ca.pem")
    assert (info.host, info.port, info.user, info.dbname, info.password) == ("db", 5433, "keeper", "app", "s:cret")
    assert (info.sslmode, info.sslrootcert) == (SslMode.VERIFY_FULL, "ca.pem")


@pytest.mark.parametrize(
    ("uri", "host", "port"),
    [
        ("postgres://db", "db", 5432),
        ("postgresql://[::1]:5433/", "::1", 5433),
        ("postgresql://[2001:db8::1]", "2001:db8::1", 5432),
        ("postgresql://%2Fvar%2Frun:5433", "/var/run", 5433),
        ("postgresql:///?host=/tmp&port=5434", "/tmp", 5434),
    ],
)
def test_the_host_of_a_uri_may_be_a_name_an_address_or_a_directory(uri: str, host: str, port: int) -> None:
    info = parse(uri)
    assert (info.host, info.port) == (host, port)


def test_variables_stand_in_for_what_the_string_leaves_out() -> None:
    info = parse("host=db", PGHOST="other", PGPORT="5433", PGUSER="keeper", PGSSLMODE="disable", PGPASSWORD="x")
    assert (info.host, info.port, info.user, info.sslmode, info.password) == (
        "db", 5433, "keeper", SslMode.DISABLE, "x",
    )  # fmt: skip


def test_the_user_defaults_to_the_login_and_the_database_to_the_user() -> None:
    assert (parse("host=db").user, parse("host=db").dbname, parse("host=db user=u").dbname) == (
        "login",
        "login",
        "u",
    )


def test_a_host_that_is_a_directory_means_a_unix_socket() -> None:
    info = parse("host=/run/pg port=5433")
    assert info.is_unix_socket
    assert info.socket_path == "/run/pg/.s.PGSQL.5433"
    assert parse("host=@pg").socket_path == "\0pg/.s.PGSQL.5432"


def test_an_address_overrides_the_name_for_connecting_only() -> None:
    info = parse("host=db hostaddr=10.0.0.1")
    assert (info.host, info.hostaddr, info.is_unix_socket) == ("db", "10.0.0.1", False)


@pytest.mark.parametrize(
    ("text", "seconds"), [("", CONNECT_TIMEOUT_SECONDS), ("0", CONNECT_TIMEOUT_SECONDS), ("3", 3.0)]
)
def test_a_timeout_of_zero_means_the_default(text: str, seconds: float) -> None:
    assert parse(f"host=db connect_timeout='{text}'").connect_timeout_seconds == seconds


def test_default_certificates_are_used_if_they_exist(tmp_path: Path) -> None:
    (tmp_path / ".postgresql").mkdir()
    (tmp_path / ".postgresql" / "root.crt").touch()
    info = parse("host=db", HOME=str(tmp_path))
    assert (info.sslrootcert, info.sslcert) == (str(tmp_path / ".postgresql" / "root.crt"), "")
    assert info.passfile == tmp_path / ".pgpass"


def test_a_home_that_cannot_be_looked_into_has_no_certificates() -> None:
    info = parse("host=db", HOME=f"/{'x' * 300}")  # for root, too, the kernel has an error here; else it is EACCES
    assert (info.sslrootcert, info.sslcert) == ("", "")


@pytest.mark.parametrize(
    "text",
    [
        "host=db hots=db",
        "host=db sslcrl=file",
        "host=db require_auth=scram-sha-256",
        "host=db sslmode=sometimes",
        "host=db port=0",
        "host=db port=65536",
        "host=db port=five",
        "host=a,b",
        "host=db connect_timeout=soon",
        "host=db port=" + "1" * 5000,
        "host=db connect_timeout=" + "1" * 400,
        "host=db connect_timeout=-" + "1" * 5000,
        "host=db user=caf\udce9",
        "postgresql://db/?passfile=%00",
        "host",
        "=db",
        "host='db",
        "postgresql://db/#fragment",
        "postgresql://[::1",
    ],
)
def test_what_cannot_be_understood_or_kept_is_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        parse(text)


def test_the_password_is_not_printed() -> None:
    info = parse("host=db password=secret")
    assert "secret" not in repr(info) + str(info)


@given(st.text(st.characters(blacklist_characters="\0", blacklist_categories=["Cs"])))
def test_any_value_survives_quoting(value: str) -> None:
    quoted = value.replace("\\", "\\\\").replace("'", "\\'")
    assert parse(f"host=db password='{quoted}'").password == (value or None)


def test_a_variable_that_is_no_utf_8_is_refused() -> None:
    with pytest.raises(ConfigError):
        parse("host=db", PGUSER="caf\udce9")
