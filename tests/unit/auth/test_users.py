"""The file of users: what is read of it, and what is not taken."""

from pathlib import Path

import pytest

from certified import ITERATIONS, SALT, user_line
from walkeeper.auth.claims import EVERYTHING, TENANT, Claims
from walkeeper.auth.users import USERS_FILE_BYTES_MAX, Users, load_users
from walkeeper.errors import AccessDenied, ConfigError, NotAllowed
from walkeeper.ids import TenantId

OURS, OTHERS = TenantId(b"t" * 16), TenantId(b"x" * 16)
GOOD = user_line("standby")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "users"


def test_a_line_is_what_postgresql_keeps_and_perhaps_a_tenant(path: Path) -> None:
    path.write_text(f"# who may read\n\n{GOOD}\n{user_line('bob', 'secret', str(OURS))}\n")
    known = load_users(path)
    assert {name: user.claims for name, user in known.items()} == {
        "standby": Claims(EVERYTHING, None, "standby"),
        "bob": Claims(TENANT, OURS, "bob"),
    }
    assert known["bob"].secret.salt == SALT
    assert known["bob"].secret.iterations == ITERATIONS


@pytest.mark.parametrize(
    "line",
    [
        "standby",
        "standby:secret",
        f":{GOOD}",
        GOOD[:-10],
        GOOD.replace("256$4096", "256$0"),
        GOOD.replace("256$4096", "256$9999999"),
        GOOD.replace("256$4096", "1$4096"),
        f"{GOOD}:tenant",
        f"{GOOD}:{OURS}:{OTHERS}",
        f"{GOOD}\n{GOOD}",
        GOOD.replace("$", " $"),
        "# nobody",
        "",
    ],
)
def test_what_is_no_list_of_users_is_refused_and_not_repeated(line: str, path: Path) -> None:
    path.write_text(f"{line}\n")
    with pytest.raises(ConfigError) as refused:
        load_users(path)
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize("content", [b"\xff:", b"x" * (USERS_FILE_BYTES_MAX + 1)], ids=["no text", "too much"])
def test_bytes_that_are_no_text_or_too_many_are_refused(content: bytes, path: Path) -> None:
    path.write_bytes(content)
    with pytest.raises(ConfigError):
        load_users(path)


def test_a_file_that_is_not_there_is_told(path: Path) -> None:
    with pytest.raises(ConfigError):
        load_users(path)


def test_a_stranger_looks_like_a_user_and_always_the_same_on_every_keeper(path: Path) -> None:
    path.write_text(GOOD)
    here, there = Users(load_users(path)), Users(load_users(path))
    secret = here.find("standby")
    assert secret is not None
    invented = here.invent_secret("nobody")
    assert invented == there.invent_secret("nobody")
    assert invented != here.invent_secret("nobody else")
    assert invented.iterations == secret.secret.iterations
    assert len(invented.salt) == len(secret.secret.salt)


def test_a_secret_is_not_shown_to_people(path: Path) -> None:
    path.write_text(GOOD)
    shown = repr(load_users(path))
    assert "stored_key" not in shown
    assert "server_key" not in shown


# -- what users may do ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("claims", "allowed"),
    [
        (Claims(EVERYTHING, None, "standby"), {OURS, OTHERS}),
        (Claims(TENANT, OURS, "bob"), {OURS}),
    ],
    ids=["any tenant's", "one tenant's"],
)
def test_users_may_read_what_their_line_says_and_write_nothing(claims: Claims, allowed: set[TenantId]) -> None:
    def may_read(tenant_id: TenantId) -> bool:
        try:
            claims.require(tenant_id)
        except AccessDenied:
            return False
        return True

    assert {each for each in (OURS, OTHERS) if may_read(each)} == allowed
    with pytest.raises(NotAllowed):
        claims.require_writer()


def test_whoever_has_a_token_may_write() -> None:
    Claims(TENANT, OURS).require_writer()
    Claims(EVERYTHING).require_writer()
    assert Claims(EVERYTHING).user is None
