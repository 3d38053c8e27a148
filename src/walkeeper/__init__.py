"""walkeeper keeps PostgreSQL WAL safe on a quorum of machines.

Purpose: the package that holds the keeper (`walkeeper serve`), the sidecar for unmodified PostgreSQL
(`walkeeper propose`) and the tools around them.  docs/architecture.md says which room does what.

This module holds the version and nothing else, so that importing one room never loads another.
"""

__version__ = "0.1.0"
