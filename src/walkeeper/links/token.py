"""The token that we show to keepers which ask for one, as Neon's clients do: as the password.

``token_path`` is set where a command begins (``show_token``); its tasks inherit it.  The file is read for every
connection, so that a new token needs no restart.

Does not know what is in a token.
"""

from contextvars import ContextVar
from pathlib import Path
from typing import Final

from walkeeper.errors import ConfigError
from walkeeper.storage.disk import read_regular

TOKEN_BYTES_MAX: Final = 4096
"""As long as keepers read them."""

token_path: Final[ContextVar[Path | None]] = ContextVar("token_path", default=None)


def show_token(path: Path | None) -> None:
    """Have connections to keepers show the token in the file at ``path`` from now on.

    Raises ConfigError for a file that holds none.
    """
    token_path.set(path)
    read_token()


def read_token() -> str | None:
    """The token, if there is one to show.  Raises ConfigError for a file that holds none."""
    path = token_path.get()
    if path is None:
        return None
    try:
        token = read_regular(path, TOKEN_BYTES_MAX + 1).decode("ascii").strip()
    except OSError as error:
        raise ConfigError(f"cannot read the token in {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"there is no token in {path}: it is not text") from None
    if not token or " " in token or not token.isprintable() or len(token) > TOKEN_BYTES_MAX:
        raise ConfigError(
            f"there is no token in {path}: expected one word of at most {TOKEN_BYTES_MAX} characters"
        )
    return token
