"""ASYNC: the writer for unmodified PostgreSQL: streams WAL from a primary to a quorum of keepers."""
