"""Children that are forked and run no other program."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable


def run_forked(work: Callable[[], object]) -> int:
    """Do ``work`` in a child and return its wait status: 0 when it went well.

    Whatever ``work`` raises ends in the child. Were it to leave, the child would run on as a second copy of this
    process, with the same line to whoever collects the results.
    """
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    return os.waitpid(child, 0)[1]
