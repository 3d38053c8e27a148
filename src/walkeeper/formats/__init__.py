"""PURE: bytes to values and back.  Knows every layout, decides nothing, does no input or output."""
