"""RUN: a step as an ordinary container of the keeper's, with its network, mounts, ssh socket and output."""
