"""The door through which images come in: every one that was not built here passes it before it is unpacked.

A registry's image is judged by its repository. Where a signature is required, one of the index or of the manifest that
was chosen from it will do: the index names the manifest by digest, and what runs was signed either way. What comes from
a file has no signatures that could be checked: required signatures refuse it. What was verified is recorded, by its
repository and digest, so that what became local before the policy, or by another way, is not used under a name that
requires signatures.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any

from agent.errors import Refused, Stalled
from agent.image.config import RegistryConfig
from agent.image.errors import ImageRejected
from agent.image.progress import PullTracker
from agent.image.storage.records import ImageEntry
from agent.image.storage.snapshots import Records
from agent.image.trust.policy import PolicyFile, Rule, subject_of
from agent.image.trust.signature_source import SignatureSource
from agent.oci.digest import Digest
from agent.oci.reference import Reference, parse_reference

KIND = "image_signers"
ARCHIVE = "archive:"
_SIGN = "sign it: cosign sign --key KEY IMAGE@DIGEST"
_BUNDLES = "; what cosign 3 writes, without --new-bundle-format=false, counts where the rule says bundles: true"
_OPEN = re.compile(r"(oci|docker-archive|dir|archive):")


class ImageGate:
    """Judges images. Without a policy file everything may come in. Thread-safe."""

    def __init__(self, policy: PolicyFile | None, config: RegistryConfig, records: Records) -> None:
        self._policy = policy
        self._config = config
        self._records = records
        self._lock = threading.Lock()
        self._signers: dict[str, dict[str, Any]] = records.all(KIND)

    def check(self, reference: Reference) -> None:
        """Before a registry is asked. Raises ImageRejected, InvalidSpec for a policy that is wrong."""
        rule = self._find(subject_of(reference))
        if rule is not None and rule.verdict == "reject":
            raise _reject(reference.familiar(), rule)

    def check_local(self, subject: str) -> None:
        """Before an image is taken from a file: ``subject`` is ``oci:PATH``, ``archive:`` or the name it is to get.

        Raises ImageRejected, InvalidSpec.
        """
        local = _OPEN.match(subject) is not None
        rule = self._find(subject if local else subject_of(parse_reference(subject)))
        if rule is None or rule.verdict == "accept":
            return
        if rule.verdict == "reject":
            raise _reject(subject, rule)
        raise ImageRejected(
            f"{subject} is refused by {rule.place}: it requires signatures, and those of a file cannot be checked",
            hint="pull it from a registry, or accept this file by a rule of its own",
        )

    def check_signed(self, reference: Reference, digests: Sequence[Digest], tracker: PullTracker) -> None:
        """When the manifest is known, and nothing below it fetched: ``digests`` lead from what the reference names to
        the manifest of this platform. Raises ImageRejected, and what a pull raises when the registry fails."""
        rule = self._find(subject_of(reference))
        if rule is None or rule.verdict == "accept":
            return
        if rule.verdict == "reject":
            raise _reject(reference.familiar(), rule)
        signers, bundlers = self._verify(rule, reference, digests, tracker)
        key, document = _key(reference, digests[-1]), {"keys": sorted(signers), "bundled": sorted(bundlers)}
        with self._lock:
            self._records.put(KIND, key, document)
            self._signers = {**self._signers, key: document}

    def _verify(
        self, rule: Rule, reference: Reference, digests: Sequence[Digest], tracker: PullTracker
    ) -> tuple[frozenset[str], frozenset[str]]:
        """Whose signatures name the repository, and whose are in bundles; the latter are looked for when needed."""
        source = SignatureSource(reference, self._config, tracker)
        expected = reference
        if rule.identity is not None:
            expected = Reference(rule.identity.registry, rule.identity.repository, reference.tag, reference.digest)
        faults: list[str] = []
        found: set[str] = set()
        bundled: set[str] = set()
        ways: list[tuple[set[str], Callable[[Digest], frozenset[str]]]] = [
            (found, lambda digest: source.find_signers(digest, rule.keys, expected, faults))
        ]
        if rule.bundles:
            ways.append((bundled, lambda digest: source.find_bundlers(digest, rule.keys, faults)))
        for makers, find in ways:
            for digest in dict.fromkeys(digests):
                try:
                    makers |= find(digest)
                except Refused as error:
                    faults.append(error.message)
                if len(found | bundled) >= rule.signers:
                    return frozenset(found), frozenset(bundled)
        raise _refuse_unsigned(reference, rule, found | bundled, faults)

    def admits(self, reference: Reference, entry: ImageEntry) -> bool:
        """Whether what is local under a name may be used as it is, or has to be checked (again) first."""
        rule = self._find(subject_of(reference))
        if rule is None or rule.verdict == "accept":
            return True
        document = self._signers.get(_key(reference, entry.digest), {})
        makers = {*document.get("keys", ()), *(document.get("bundled", ()) if rule.bundles else ())}
        trusted = {key.fingerprint for key in rule.keys} & makers
        return rule.verdict == "require" and len(trusted) >= rule.signers

    def forget(self, entries: Iterable[ImageEntry]) -> None:
        """Drop what is recorded of other images than ``entries``."""
        local = {entry.digest for entry in entries}
        self._drop(lambda digest: digest not in local)

    def forget_of(self, gone: ImageEntry) -> None:
        """An image was removed: drop what is recorded of it."""
        self._drop(lambda digest: digest == gone.digest)

    def _drop(self, goes: Callable[[str], bool]) -> None:
        with self._lock:
            gone = {key for key in self._signers if goes(key.partition("@")[2])}
            if gone:
                self._records.delete(KIND, *gone)
                self._signers = {key: value for key, value in self._signers.items() if key not in gone}

    def refuse_unchecked(self, reference: Reference) -> Stalled:
        """The error for a local image that may be neither used nor pulled."""
        rule = self._find(subject_of(reference))
        place = rule.place if rule is not None else "the policy"
        return ImageRejected(
            f"{reference.familiar()} is local, but {place} requires signatures, which were never checked",
            hint="pull it, or give it another pull policy than never",
        )

    def _find(self, subject: str) -> Rule | None:
        return self._policy.current().find(subject) if self._policy is not None else None


def _key(reference: Reference, digest: Digest) -> str:
    return f"{subject_of(reference)}@{digest}"


def _reject(what: str, rule: Rule) -> ImageRejected:
    return ImageRejected(f"{what} is refused by {rule.place}", hint="use another image, or change the policy")


def _refuse_unsigned(reference: Reference, rule: Rule, found: Collection[str], faults: Sequence[str]) -> ImageRejected:
    wanted = f"{rule.signers} of {len(rule.keys)} keys" if rule.signers > 1 else "one of its keys"
    said = "; ".join(dict.fromkeys(faults))[:1000] or ("not enough of them signed" if found else "it is not signed")
    return ImageRejected(
        f"{reference.familiar()} is refused by {rule.place}: it needs a signature by {wanted}; {said}",
        hint=_SIGN if rule.bundles else f"{_SIGN}{_BUNDLES}",
    )
