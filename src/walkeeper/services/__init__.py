"""ASYNC: the keeper's sockets."""
