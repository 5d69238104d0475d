"""``build``: where an image comes from."""

from __future__ import annotations

from agent.spec.buildcontexts import check_dockerfile, read_context, read_contexts
from agent.spec.buildoptions import read_options
from agent.spec.fields import Fields
from agent.spec.keys import BUILD
from agent.spec.maps import read_variables
from agent.spec.model import Build
from agent.spec.secrets import Secrets, read_build_secrets
from agent.spec.tree import Mapping, Sequence, describe


def read_build(service: Fields, secrets: Secrets) -> Build | None:
    """A service's build, in short (the context alone) or long form; ``secrets`` are those of the app."""
    node = service.node_of("build")
    if node is None:
        return None
    if isinstance(node, Sequence):
        service.complain("build", f"must be a directory or a mapping, not {describe(node)}")
        return None
    if not isinstance(node, Mapping):
        text = service.text("build")
        context = read_context(service, node, text, service.at("build")) if text is not None else None
        if context is None:
            return None
        check_dockerfile(service, node, context, "Dockerfile")
        return Build(context=context)
    return _read_long(service, Fields(service.reading, node, service.at("build"), BUILD), secrets)


def _read_long(service: Fields, fields: Fields, secrets: Secrets) -> Build | None:
    where = fields.where("context")
    context = read_context(fields, where, fields.text("context") or ".", fields.at("context"))
    inline, dockerfile = fields.text("dockerfile_inline"), fields.text("dockerfile")
    values = {
        "args": read_variables(service.reading, fields.node_of("args"), fields.at("args")).values,
        "additional_contexts": read_contexts(fields),
        "target": fields.text("target") or None,
        "secrets": read_build_secrets(fields, secrets),
        **read_options(fields),
    }
    if inline is not None and dockerfile is not None:
        fields.complain("dockerfile_inline", "there is a dockerfile too: set only one of them")
    if context is None:
        return None
    if inline is not None:
        return Build(context=context, dockerfile=fields.at("dockerfile_inline"), dockerfile_inline=inline, **values)
    check_dockerfile(service, fields.where("dockerfile"), context, dockerfile or "Dockerfile")
    return Build(context=context, dockerfile=dockerfile or "Dockerfile", **values)
