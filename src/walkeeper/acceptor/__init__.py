"""PURE: what an acceptor may say, and what must be kept on disk before it says it."""
