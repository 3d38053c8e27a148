"""What is said with a client of the keeper while nothing streams: over a plain link first, and perhaps TLS.

Does not know what is meant, and has no time limits: the caller wraps.
"""

from walkeeper.auth.certificates import POSTGRES_ALPN, Certificate
from walkeeper.errors import TlsFailed
from walkeeper.formats.backend import BackendMessage
from walkeeper.formats.frontend import FrontendMessage
from walkeeper.formats.session import EndOfStream, ServerSession
from walkeeper.formats.startup import DirectTls, EncryptionAnswer, StartupPacket
from walkeeper.links.link import Link, send_all
from walkeeper.links.tls_link import TlsLink, accept_tls
from walkeeper.services.turnstile import MORSEL_BYTES, Turnstile


class Conversation:
    """``link`` is the one to speak over now; ``certificate`` is what the client was shown, None in clear text."""

    def __init__(self, link: Link, turnstile: Turnstile) -> None:
        self.link = link
        self.session = ServerSession()
        self.certificate: Certificate | None = None
        self._turnstile = turnstile

    async def next_event(self) -> StartupPacket | FrontendMessage | EndOfStream:
        """Raises PeerError, and trio.BrokenResourceError.  Cancellation: at any time, nothing is lost."""
        while True:
            await self._turnstile.go_through()  # whoever does not wait for answers lets others run
            if (event := self.session.next_event()) is not None:
                return event
            self.session.feed(await self.link.receive(MORSEL_BYTES))

    async def send(self, *messages: BackendMessage | EncryptionAnswer) -> None:
        """Raises trio.BrokenResourceError.  Cancellation: part of it may have been sent."""
        await send_all(self.link, self.session.send(*messages))

    async def encrypt(self, certificate: Certificate) -> None:
        """Shake hands, after the client was told to begin.  Raises TlsFailed; then there is nothing to be said any more.

        Cancellation: then too.
        """
        await self._shake_hands(certificate, b"")

    async def encrypt_directly(self, certificate: Certificate) -> None:
        """The same for a client that has begun by itself."""
        link = await self._shake_hands(certificate, DirectTls.FIRST_BYTE + self.session.take_rest())
        if link.tls.selected_alpn_protocol() != POSTGRES_ALPN:
            # It may believe that it speaks to a server of another kind, and be made to say things to us.
            raise TlsFailed(f"TLS was begun without asking, and not for {POSTGRES_ALPN!r} (ALPN)")

    async def _shake_hands(self, certificate: Certificate, received: bytes) -> TlsLink:
        go_through = self._turnstile.go_through
        link = await accept_tls(self.link, certificate.pg, received=received, wait_turn=go_through)
        self.link, self.certificate = link, certificate
        return link
