"""Which images may come to this host: the policy file, signatures, and the gate that every image passes."""
