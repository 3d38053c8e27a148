"""The commands around the daemon and the sidecar."""
