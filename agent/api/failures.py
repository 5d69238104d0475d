"""Every error as JSON: ``{"reason", "message", "hint"}``, never a traceback and never a secret."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

from agent.errors import Conflict, HoldfastError, InvalidSpec, NotFound, Refused, Stalled, Unsupported, Waiting
from agent.telemetry.logging import get_logger
from agent.telemetry.redaction import redact_text

log = get_logger("api")
_STATUS: tuple[tuple[type[HoldfastError], int], ...] = (
    (NotFound, 404),
    (Conflict, 409),
    (Refused, 400),
    (InvalidSpec, 422),
    (Unsupported, 501),
    (Stalled, 422),
    (Waiting, 503),
)
_HTTP_REASONS = {404: "NotFound", 405: "MethodNotAllowed", 413: "RequestTooLarge", 400: "InvalidRequest"}
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def describe_error(error: BaseException) -> dict[str, Any]:
    """The JSON form of any error; what was not raised on purpose is only named, its details are in the log."""
    if isinstance(error, HoldfastError):
        hint = redact_text(error.hint) if error.hint else None
        return {"reason": error.reason, "message": redact_text(error.message), "hint": hint}
    return {
        "reason": "InternalError",
        "message": f"the agent failed on this request ({type(error).__name__})",
        "hint": "the agent's log has the details",
    }


def _respond(error: HoldfastError) -> web.Response:
    status = next((code for kind, code in _STATUS if isinstance(error, kind)), 500)
    headers = {}
    if error.retry_after is not None:
        headers["Retry-After"] = str(math.ceil(error.retry_after))
    return web.json_response(describe_error(error), status=status, headers=headers)


@web.middleware
async def errors_as_json(request: web.Request, handler: Handler) -> web.StreamResponse:
    """aiohttp middleware: the outermost one."""
    try:
        return await handler(request)
    except HoldfastError as error:
        return _respond(error)
    except web.HTTPException as error:
        reason = _HTTP_REASONS.get(error.status, "InvalidRequest")
        body = {"reason": reason, "message": f"{request.method} {request.path}: {error.reason}", "hint": None}
        return web.json_response(body, status=error.status)
    except asyncio.CancelledError:
        raise
    except ConnectionResetError:
        return web.Response()  # nobody is there to read it; aiohttp would call this a failure of ours
    except Exception as error:
        log.exception("request failed", method=request.method, path=request.path)
        return web.json_response(describe_error(error), status=500)
