"""The last valid version of every app, so that a broken file changes nothing, also after a restart of the agent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from agent.controller.journal import Journal
from agent.controller.port import AppFilesPort, RecordsPort
from agent.plan.wants import DesiredApp
from agent.spec.model import App

KIND = "app"


class LastGood:
    """By the app's key in its source: the name it has, and what is in force."""

    def __init__(self, records: RecordsPort, journal: Journal) -> None:
        self._records = records
        self._journal = journal
        self._names: dict[str, str] = {}
        self._revisions: dict[str, str] = {}
        self._desired: dict[str, DesiredApp] = {}
        for key, document in records.all(KIND).items():
            self._names[key] = str(document.get("name", key))
            self._revisions[key] = str(document.get("revision", ""))

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys of all apps that were valid once and are not forgotten."""
        return tuple(self._names)

    def name_of(self, key: str) -> str | None:
        """The name of the app that was last valid under a key."""
        return self._names.get(key)

    def accept(self, files: AppFilesPort, app: App) -> DesiredApp:
        """A valid version: it is in force from now on. The same App object gives the same DesiredApp object."""
        known = self._desired.get(files.key)
        if known is not None and known.app is app and known.revision == files.digest:
            return known
        desired = DesiredApp(app, files.digest)
        self._desired[files.key] = desired
        if self._revisions.get(files.key) != files.digest or self._names.get(files.key) != app.name:
            document = {"name": app.name, "revision": files.digest, "app": app.model_dump(mode="json")}
            self._journal.put(KIND, files.key, document)
        self._names[files.key], self._revisions[files.key] = app.name, files.digest
        return desired

    def recall(self, key: str) -> DesiredApp | None:
        """What stays in force while the present version is not valid; None when there never was a valid one."""
        if key in self._desired or key not in self._names:
            return self._desired.get(key)
        document = self._records.get(KIND, key)
        desired = _decode(document) if document else None
        if desired is not None:
            self._desired[key] = desired
        return desired

    def forget(self, key: str) -> None:
        """The app is not in its source any more."""
        self._desired.pop(key, None)
        self._revisions.pop(key, None)
        if self._names.pop(key, None) is not None:
            self._journal.put(KIND, key, None)


def _decode(document: Mapping[str, Any]) -> DesiredApp | None:
    """None for a document of a version of Holdfast that described apps in another way."""
    try:
        return DesiredApp(App.model_validate(document["app"]), str(document["revision"]))
    except (ValidationError, KeyError):
        return None
