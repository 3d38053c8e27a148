"""All fuzz targets, by name.  The default tests and the fuzz session run the same ones."""

from typing import Final

from fuzz import clients, files, wire
from fuzz.target import Target

TARGETS: Final[dict[str, Target]] = {
    target.name: target for target in (*wire.TARGETS, *files.TARGETS, *clients.TARGETS)
}
