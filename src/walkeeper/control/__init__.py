"""ASYNC: what operators and their machines see: the management API over HTTP, health, metrics."""
