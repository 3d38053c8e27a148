"""The status page, ``/``: one document with everything in it, which shows what ``looks`` tells.

Its headers forbid the browser to load or run anything else: whatever a client calls itself, it stays text.  The page holds no
data of its own, so nobody needs a token for it; it asks for one where the overview needs one.

``assets/`` holds its parts, written by hand, and uPlot, which draws the charts (MIT, ``assets/uPlot.LICENSE``).
"""

from base64 import b64encode
from collections.abc import Iterable
from hashlib import sha256
from importlib.resources import files
from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

STYLES: Final = ("uPlot.min.css", "page.css")
SCRIPTS: Final = ("uPlot.iife.min.js", "page.js")


def page_route() -> Route:
    """``/``."""
    styles = [_asset(name) for name in STYLES]
    scripts = [_asset(name) for name in SCRIPTS]
    document = (
        _asset("page.html")
        .replace("<!-- styles -->", "".join(f"<style>{each}</style>" for each in styles))
        .replace("<!-- scripts -->", "".join(f"<script>{each}</script>" for each in scripts))
    )
    headers = {
        "content-security-policy": _policy(styles, scripts),
        "cross-origin-opener-policy": "same-origin",
        "referrer-policy": "no-referrer",
        "x-content-type-options": "nosniff",
        "cache-control": "no-cache",
    }

    async def show(_request: Request) -> Response:
        return Response(document, media_type="text/html", headers=headers)

    return Route("/", show, methods=["GET"])


def _asset(name: str) -> str:
    return files("walkeeper.control").joinpath("assets", name).read_text(encoding="utf-8")


def _policy(styles: Iterable[str], scripts: Iterable[str]) -> str:
    """Exactly these styles and scripts, data from here, and nothing else from anywhere."""
    return "; ".join(
        (
            "default-src 'none'",
            f"style-src {_hashes(styles)}",
            f"script-src {_hashes(scripts)}",
            "connect-src 'self'",
            "img-src data:",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
        )
    )


def _hashes(texts: Iterable[str]) -> str:
    return " ".join(f"'sha256-{b64encode(sha256(each.encode()).digest()).decode()}'" for each in texts)
