"""What attackers send, and whether the bus stands it: `make hostile`. See README.md."""
