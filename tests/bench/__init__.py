"""The benchmarks: this project's keeper and sidecar beside named peers and the disk's own limit, in one run."""
