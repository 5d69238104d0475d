"""Dockerfile to image: parse, plan the stages, make each layer or find it in the cache, record the image.

Law: a Dockerfile, a context and what a RUN step does are hostile: every source is read beneath its context's root,
every destination written beneath the image's own, every step runs as an ordinary container, and nothing of the agent's
environment is seen by any (attack rows 53 to 60). What is not supported is refused, all of it at once. The same
inputs give the same image: files a build copies have time 0, and so has what a step writes.

`builder.Builder` is the door. Text to values, all pure: ``lines``, ``words``, ``grammar``, ``filegrammar``,
``rungrammar``, ``parse``, ``expansion``, ``checks``; which stages there are: ``stages``; what a stage is after each
instruction: ``state``, as ``steps`` to be carried out. A build is a ``session``: ``schedule`` runs its stages at the
same time, ``stagebuild`` one of them, ``carrying`` and ``layers`` each step: found in ``cache``, or made by ``copier``
(COPY, ADD) or ``runner`` (RUN) in a ``workspace``. Files come from ``contexts``: directories (``tree``, ``scan``,
``patterns``), git (``checkouts``, ``gitfetch``, ``gitdirectory``, ``submodules``), uploads (``received``), URLs
(``remote``).
"""
