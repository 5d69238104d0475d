"""Dockerfile to image: parse, plan the stages, make each layer or find it in the cache, record the image.

Law: a Dockerfile, a context and what a RUN step does are hostile: every source is read beneath its context's root,
every destination written beneath the image's own, every step runs as an ordinary container, and nothing of the agent's
environment is seen by any (attack rows 53 to 60). What is not supported is refused, all of it at once. The same
inputs give the same image: files a build copies have time 0, and so has what a step writes.

`builder.Builder` is the door. ``dockerfile`` is the language, pure: a text to stages (``parse``, ``stages``), and what
a stage is after each instruction (``state``), as ``steps`` to be carried out. A build is a ``session``: ``schedule``
runs its stages at the same time, ``stagebuild`` one of them, ``carrying`` and ``layers`` each step: found in
``cache``, or made in a ``workspace`` by ``files.copier`` (COPY, ADD) or ``run.runner`` (RUN). Files come from
``files.contexts``: directories (``files.tree``, ``files.scan``), ``git``, uploads (``files.received``), URLs
(``remote``). ``patterns`` match their names.
"""
