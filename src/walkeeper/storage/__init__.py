"""The disk: control files and segments that survive crashes.  Synchronous and blocking, but for ``offload``."""
