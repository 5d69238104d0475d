"""Credential helpers: programs called ``docker-credential-NAME`` that keep secrets for us.

Protocol: https://github.com/docker/docker-credential-helpers (a verb as argument; JSON or a server URL on standard
input; JSON on standard output). What they print on failure is not repeated: it might hold a secret.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess

from agent.errors import Stalled, Waiting
from agent.image.registry.registryfile import HELPER_NAME
from agent.oci.digest import render_shortened
from agent.oci.document import InvalidDocument, decode_document, take_text

SECONDS = 30.0
MAX_ANSWER = 64 << 10
TOKEN_USER = "<token>"
"""The user name that says: the secret is an identity token."""

_ABSENT = (b"credentials not found", b"no credentials server url", b"no credentials username")


def get_secret(helper: str, server: str) -> tuple[str, str] | None:
    """User and secret of ``server``; None when the helper has none. Raises Stalled or Waiting."""
    answer = _run(helper, "get", server.encode(), may_be_absent=True)
    if answer is None:
        return None
    try:
        document = decode_document(answer, "its answer")
        user, secret = take_text(document, "Username"), take_text(document, "Secret")
    except InvalidDocument as error:
        raise _unusable(helper, error.message) from None
    return (user, secret) if user or secret else None


def store_secret(helper: str, server: str, user: str, secret: str) -> None:
    """Let the helper keep a secret. Raises Stalled or Waiting."""
    document = {"ServerURL": server, "Username": user, "Secret": secret}
    _run(helper, "store", json.dumps(document).encode())


def erase_secret(helper: str, server: str) -> None:
    """Let the helper forget a server; that it never knew it is fine. Raises Stalled or Waiting."""
    _run(helper, "erase", server.encode(), may_be_absent=True)


def _run(helper: str, verb: str, given: bytes, *, may_be_absent: bool = False) -> bytes | None:
    if not HELPER_NAME.match(helper):
        raise _unusable(helper, "that is not the name of one")
    program = shutil.which(f"docker-credential-{helper}")
    if program is None:
        raise _unusable(helper, "there is no such program in PATH")
    try:
        process = subprocess.Popen(
            [program, verb],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
    except OSError as error:
        raise _unusable(helper, f"it cannot be run: {error.strerror}") from None
    with process:
        try:
            answer, _ = process.communicate(given, timeout=SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise Waiting(
                f"the credential helper docker-credential-{helper} did not answer in {SECONDS:.0f} s",
                reason="CredentialHelperFailed",
                hint=f"run `docker-credential-{helper} list` by hand as the same user; does it want a terminal?",
            ) from None
    if process.returncode == 0 and len(answer) <= MAX_ANSWER:
        return answer
    if may_be_absent and any(text in answer[:MAX_ANSWER].lower() for text in _ABSENT):
        return None
    raise _unusable(helper, f"`{verb}` ended with status {process.returncode}")


def _unusable(helper: str, why: str) -> Stalled:
    return Stalled(
        f"the credential helper docker-credential-{render_shortened(helper)[1:-1]} cannot be used: {why}",
        reason="CredentialHelperFailed",
        hint="install it, or correct credHelpers and credsStore in config.json (or the registries file)",
    )
