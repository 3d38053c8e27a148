"""What the sidecar is called where nobody has said otherwise.

A module of its own: the command line shows the name in ``--help``, without loading the sidecar.
"""

from typing import Final

DEFAULT_NAME: Final = "walkeeper"
"""The name of the replication slot, and the application name for synchronous_standby_names."""
