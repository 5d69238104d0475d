"""What ``build`` does before and after the agent's part: contexts as tars, options, the live view, results."""
