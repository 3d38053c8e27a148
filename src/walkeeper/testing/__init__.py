"""What ships for tests: fakes of disk, network and threads, clusters made of them, and cancellation at every moment."""
