"""Where a step reads files from: contexts, other stages, images, each as a tree."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from agent.builder.bases import Bases
from agent.builder.dockerfile.origins import Origin, OriginKind
from agent.builder.files.contexts import Contexts
from agent.builder.files.scan import Keeps
from agent.builder.files.tree import FileTree
from agent.builder.layers import Layers
from agent.builder.request import StageResult, Tools
from agent.oci.gitreference import GitReference
from agent.runtime.imageview import merged_view
from agent.values import frozen

_OWNED = Keeps(owners=True)


@frozen
class Reader:
    """What one stage may read. ``stage`` and ``bases`` are waited for when they are not there yet."""

    tools: Tools
    contexts: Contexts
    bases: Bases
    stage: Callable[[int], StageResult]
    check: Callable[[], None]

    def require(self, origin: Origin) -> None:
        """Wait until it is there. Raises what building or pulling it raises."""
        if origin.kind is OriginKind.STAGE:
            self.stage(origin.stage)
        elif origin.kind is OriginKind.IMAGE:
            self.bases.get(origin.name)

    def layers(self, origin: Origin) -> Layers | None:
        """The layers of a stage or image; None for a context."""
        if origin.kind is OriginKind.STAGE:
            return self.stage(origin.stage).layers
        if origin.kind is OriginKind.IMAGE:
            return self.tools.images.layers(self.bases.get(origin.name).entry.id)
        return None

    def repository(self, reference: GitReference) -> FileTree:
        """The files of a git repository, fetched now. Raises what ``Contexts.repository`` does."""
        return FileTree(self.contexts.repository(reference), "the repository", check=self.check)

    @contextmanager
    def opened(self, origin: Origin, *, times: bool = False) -> Iterator[FileTree]:
        """The files; those of stages and images keep their owners, those of contexts become root's.

        With ``times`` the files of a context keep theirs, for who sees them only while a step runs.
        """
        layers = self.layers(origin)
        if layers is None:
            context = self.contexts.get(origin.name)
            yield FileTree(
                context.root,
                context.what,
                rules=context.rules,
                stamps=self.tools.stamps,
                check=self.check,
                keeps=Keeps(times=times),
            )
            return
        what = f"stage {origin.stage}" if origin.kind is OriginKind.STAGE else f"the image {origin.name}"
        with merged_view(self.tools.maker.lower(layers)) as view:
            yield FileTree(view, what, check=self.check, keeps=_OWNED)
