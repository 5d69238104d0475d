"""Which address answers for what, and how balancer and names are kept so."""
