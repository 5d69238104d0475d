"""One push: all layers at once, then configs and manifests, byte for byte as they are kept here, an index last."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from agent.errors import Stalled
from agent.image.config import RegistryConfig
from agent.image.errors import DigestMismatch, ImageNotFound
from agent.image.progress import LayerMeter, PullTracker
from agent.image.registry.client import RegistryClient
from agent.image.registry.session import Request
from agent.image.storage.records import ImageEntry
from agent.image.stores import Stores
from agent.image.transfer.apart import await_all, run_apart
from agent.image.transfer.cargo import Cargo
from agent.image.transfer.uploads import BlobUpload, Outcome
from agent.oci.descriptor import OCI_MANIFEST, Descriptor
from agent.oci.digest import Digest, compute_digest
from agent.oci.document import decode_document, take_text
from agent.oci.manifest import Manifest, decode_manifest
from agent.oci.reference import Reference, parse_reference
from agent.values import frozen


@frozen
class PushReport:
    """What a push did. ``digest`` names the manifest or index in the registry; the counts are of layers.

    ``images`` is how many went, ``left_out`` how many entries of their index did not, for they are no images.
    """

    reference: str
    digest: Digest
    uploaded: int
    mounted: int
    present: int
    bytes_sent: int
    images: int = 1
    left_out: int = 0


@frozen
class _Document:
    """A manifest or index: its bytes, its media type, and the tag or digest that it is put under."""

    data: bytes
    kind: str
    target: str


class Push:
    """Brings local images to a registry; used once, by one thread."""

    def __init__(
        self, stores: Stores, config: RegistryConfig, cargo: Cargo, target: Reference, tracker: PullTracker
    ) -> None:
        """``target`` is where to. Raises Stalled when the registries file cannot be used, or for another digest."""
        if target.digest not in (None, cargo.digest):
            raise Stalled(
                f"the image has the digest {cargo.digest}, it cannot be pushed under another one",
                reason="ImagePushFailed",
                hint="push it under a tag",
            )
        self._stores = stores
        self._config = config
        self._cargo = cargo
        self._target = target
        self._tracker = tracker
        self._client = RegistryClient(target, config, tracker, "pull,push")

    def run(self) -> PushReport:
        """Push. Raises what goes wrong; what arrived stays in the registry and is found there the next time."""
        try:
            keys = {key for entry in self._cargo.images for key in (*entry.blobs, *entry.chains)}
            with self._stores.leases.held(keys):
                return self._push()
        finally:
            self._client.transport.close()

    def _push(self) -> PushReport:
        parts = [self._read_manifest(entry) for entry in self._cargo.images]
        layers = list({layer.digest: layer for _, manifest in parts for layer in manifest.layers}.values())
        meters = self._tracker.expect(layers)
        self._tracker.report("pushing")
        outcomes = self._send_layers(layers, meters)

        def finish() -> None:
            for document, manifest in parts:
                self._upload(manifest.config, LayerMeter(self._tracker, manifest.config))
                self._put(document)
            if self._cargo.index is not None:
                self._put(_Document(self._cargo.index.data, self._cargo.index.kind, self._name))

        run_apart(finish, self._tracker, self._client.transport.abort)
        self._tracker.report("done")
        return PushReport(
            self._target.familiar(),
            self._cargo.digest,
            uploaded=outcomes.count(Outcome.UPLOADED),
            mounted=outcomes.count(Outcome.MOUNTED),
            present=outcomes.count(Outcome.PRESENT),
            bytes_sent=sum(meter.fetched for meter in meters),
            images=len(parts),
            left_out=self._cargo.left_out,
        )

    @property
    def _name(self) -> str:
        """What is pushed is put under its tag, else under its digest."""
        return self._target.tag or self._cargo.digest

    def _read_manifest(self, entry: ImageEntry) -> tuple[_Document, Manifest]:
        """The manifest as the registry that it came from has it; one of several is named by its digest."""
        try:
            data = self._stores.content.read(entry.digest)
        except FileNotFoundError:
            raise ImageNotFound(
                f"the manifest {entry.digest} is not local", hint="pull or build the image again"
            ) from None
        kind = take_text(decode_document(data, "the manifest"), "mediaType") or OCI_MANIFEST
        manifest = decode_manifest(data, kind)
        if not isinstance(manifest, Manifest):
            raise ImageNotFound(f"{entry.digest} is an index")
        return _Document(data, kind, entry.digest if self._cargo.index is not None else self._name), manifest

    def _send_layers(self, layers: Sequence[Descriptor], meters: Sequence[LayerMeter]) -> list[Outcome]:
        pool = ThreadPoolExecutor(self._config.parallel_layers, thread_name_prefix="layer-push")
        try:
            futures = [pool.submit(self._upload, *pair) for pair in zip(layers, meters, strict=True)]
            await_all(futures, self._tracker, "pushing")
            return [future.result() for future in futures]
        except BaseException:
            self._tracker.abandon()
            self._client.transport.abort()
            raise
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _upload(self, blob: Descriptor, meter: LayerMeter) -> Outcome:
        upload = BlobUpload(self._stores.content, self._client, blob, self._config, meter)
        return upload.run(self._find_sources(blob.digest))

    def _find_sources(self, blob: Digest) -> list[str]:
        """Other repositories of the same registry that a local image with this blob is named after."""
        found: dict[str, None] = {}
        for entry in self._stores.images.all():
            if blob not in entry.blobs:
                continue
            for reference in map(parse_reference, entry.names):
                if reference.registry == self._target.registry and reference.repository != self._target.repository:
                    found[self._client.name_at_origin(reference)] = None
        return list(found)

    def _put(self, document: _Document) -> None:
        self._client.retried(lambda: self._client.origin.once(lambda: self._put_once(document)))

    def _put_once(self, document: _Document) -> None:
        headers, accepted = {"Content-Type": document.kind}, frozenset({201, 202})
        request = Request("PUT", f"manifests/{document.target}", headers, accepted, body=lambda: document.data)
        response = self._client.origin.send(request)
        stated, digest = response.headers.get("Docker-Content-Digest"), compute_digest(document.data)
        self._client.transport.release(response, reuse=False)
        if stated not in (None, digest):
            raise DigestMismatch(f"the registry took the manifest {digest} for {str(stated)[:80]}")
