"""Large layers are unpacked by processes of their own: the agent's side, theirs, and what they say to each other."""
