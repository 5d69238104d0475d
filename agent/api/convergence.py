"""Reads from a status whether the host is as wanted: the one answer behind exit code 2."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any


def compute_converged(status: Mapping[str, Any]) -> bool:
    """True when every app is Ready and none is Reconciling or Stalled, and every service has its replicas."""
    return all(
        _app_converged(app.get("conditions", ())) and all(map(_service_converged, app.get("services", ())))
        for app in status.get("apps", ())
    )


def _app_converged(conditions: Iterable[Mapping[str, Any]]) -> bool:
    held = {condition["type"]: condition["status"] for condition in conditions}
    return held.get("Ready") == "True" and held.get("Reconciling") != "True" and held.get("Stalled") != "True"


def _service_converged(service: Mapping[str, Any]) -> bool:
    return bool(service.get("ready", 0) >= service.get("desired", 0))
