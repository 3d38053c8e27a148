"""How many connections a limit of open files is enough for."""

import resource

import pytest

from walkeeper.daemon.config import CONNECTIONS_MAX_DEFAULT
from walkeeper.daemon.files import FILES_PER_CONNECTION, RESERVED_FILES, raise_limit, settle_connections_max
from walkeeper.errors import ConfigError


@pytest.mark.parametrize("files_max", [RESERVED_FILES + FILES_PER_CONNECTION, 512, 1024, 4096, 20_000])
def test_what_connections_can_need_and_what_is_set_aside_fit_into_the_limit(files_max: int) -> None:
    connections_max = settle_connections_max(None, files_max)
    needed = RESERVED_FILES + FILES_PER_CONNECTION * connections_max
    assert connections_max >= 1
    assert files_max - FILES_PER_CONNECTION < needed <= files_max
    assert settle_connections_max(connections_max, files_max) == connections_max
    with pytest.raises(ConfigError):
        settle_connections_max(connections_max + 1, files_max)


def test_a_usual_limit_is_enough_for_a_usual_keeper() -> None:
    assert settle_connections_max(None, 1024) > 200


@pytest.mark.parametrize("files_max", [1 << 20, resource.RLIM_INFINITY])
def test_memory_is_a_limit_too_unless_more_is_wanted(files_max: int) -> None:
    assert settle_connections_max(None, files_max) == CONNECTIONS_MAX_DEFAULT
    assert settle_connections_max(2 * CONNECTIONS_MAX_DEFAULT, files_max) == 2 * CONNECTIONS_MAX_DEFAULT


def test_a_limit_that_is_enough_for_nobody_is_refused() -> None:
    with pytest.raises(ConfigError):
        settle_connections_max(None, RESERVED_FILES)


def test_the_limit_is_raised_as_far_as_it_may_be() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (before[0] // 2, before[1]))
    try:
        assert raise_limit() == before[1]
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (before[1], before[1])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.parametrize("error", [ValueError("not allowed to raise maximum limit"), PermissionError(1, "no")])
def test_a_limit_that_the_kernel_does_not_let_be_raised_stays(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """Where the hard limit is above fs.nr_open, which may have been lowered since."""

    def refuse(_what: int, _limits: tuple[int, int]) -> None:
        raise error

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    monkeypatch.setattr(resource, "getrlimit", lambda _what: (soft - 1, hard))
    monkeypatch.setattr(resource, "setrlimit", refuse)
    assert raise_limit() == soft - 1
