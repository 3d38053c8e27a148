"""What a token says: whose it is, and what may be touched with it.

Does not verify anything: ``tokens`` does.  Source: Neon's ``utils::auth`` and its safekeeper's ``auth.rs``.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from walkeeper.errors import AccessDenied
from walkeeper.ids import TenantId

TENANT: Final = "tenant"
"""The scope of a token for the timelines of one tenant."""

EVERYTHING: Final = "safekeeperdata"
"""The scope of a token for all of a keeper.  There are others at Neon, for other servers."""


@dataclass(frozen=True, slots=True)
class Claims:
    """The part of a verified token that counts here."""

    scope: str
    tenant_id: TenantId | None = None

    def require(self, tenant_id: TenantId | None) -> None:
        """Raises AccessDenied unless the timelines of that tenant may be touched; None: the keeper as a whole."""
        if self.scope == EVERYTHING:
            return
        if self.scope != TENANT:
            raise AccessDenied(f"a token of scope {self.scope!r} is of no use here")
        if tenant_id is None or tenant_id != self.tenant_id:
            asked = "the whole keeper" if tenant_id is None else f"tenant {tenant_id}"
            raise AccessDenied(f"a token of tenant {self.tenant_id} was shown for {asked}")


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
