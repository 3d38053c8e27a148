"""What a token says, or the list of users of who knows a password: what may be touched, and whether to write.

Does not verify anything: ``tokens`` and ``scram`` do.  Source: Neon's ``utils::auth`` and its safekeeper's ``auth.rs``.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from walkeeper.errors import AccessDenied, NotAllowed
from walkeeper.ids import TenantId

TENANT: Final = "tenant"
"""The scope of a token for the timelines of one tenant."""

EVERYTHING: Final = "safekeeperdata"
"""The scope of a token for all of a keeper.  There are others at Neon, for other servers."""


@dataclass(frozen=True, slots=True)
class Claims:
    """The part of a verified token that counts here; or what ``user`` may do, who may only read."""

    scope: str
    tenant_id: TenantId | None = None
    user: str | None = None

    def require(self, tenant_id: TenantId | None) -> None:
        """Raises AccessDenied unless the timelines of that tenant may be touched; None: the keeper as a whole."""
        if self.scope == EVERYTHING:
            return
        if self.scope != TENANT:
            raise AccessDenied(f"a token of scope {self.scope!r} is of no use here")
        if tenant_id is None or tenant_id != self.tenant_id:
            asked = "the whole keeper" if tenant_id is None else f"tenant {tenant_id}"
            if self.user is not None:
                raise NotAllowed(f"user {self.user!r} is of tenant {self.tenant_id} and asked for {asked}")
            raise AccessDenied(f"a token of tenant {self.tenant_id} was shown for {asked}")

    def require_writer(self) -> None:
        """Raises AccessDenied for users, who may only read: an acknowledgement is a matter of tokens."""
        if self.user is not None:
            raise NotAllowed(f"user {self.user!r} wants to write WAL, for which a token is needed")


Verify = Callable[[bytes], Claims]
"""Reads a token.  Raises AccessDenied."""


def parse_claims(payload: Mapping[str, object]) -> Claims:
    """Of a token's JSON; what is not known is ignored.  Raises AccessDenied for what makes no sense."""
    scope, tenant = payload.get("scope"), payload.get("tenant_id")
    if not isinstance(scope, str):
        raise AccessDenied("the token names no scope")
    try:
        tenant_id = TenantId.parse(tenant) if isinstance(tenant, str) else None
    except ValueError as error:
        raise AccessDenied(f"the token's tenant_id: {error}") from None
    if scope == TENANT and tenant_id is None:
        raise AccessDenied("the token is for a tenant, and does not say for which")
    return Claims(scope, tenant_id)
