"""Is this host fit for Holdfast? One small function a question, each asked of the kernel itself where it can be.

Law: a check changes nothing that outlives it (it tries things in a child with namespaces of its own), raises
nothing, and every answer that is not ``ok`` says what to do about it.
"""
