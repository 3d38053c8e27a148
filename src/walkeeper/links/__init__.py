"""ASYNC: byte links to peers, the same for the keeper's sockets and for the proposer's."""
