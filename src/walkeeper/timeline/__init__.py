"""ASYNC: where the durable state of a timeline meets many tasks."""
