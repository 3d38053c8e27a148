"""Every state that the real acceptor and proposer can reach in a small world, visited one by one."""
