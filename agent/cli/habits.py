"""What people who know docker, podman, buildah or skopeo type, and what does that here."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

import click

_SERVICE = "write it as a service into a Compose file of the state directory; `holdfast plan` shows what comes of it"
_FILES = "containers are as the state directory's Compose files say: change those, then `holdfast status --wait 60`"

_BUILD = "holdfast build -t NAME PATH"
_WORDS = {
    "attach": "holdfast logs -f NAME",
    "bud": _BUILD,
    "buildx": _BUILD,
    "commit": "holdfast export CONTAINER | holdfast import - NAME",
    "compose": "put the Compose file into the state directory; `holdfast sync` says what came of it",
    "container": "holdfast ps, logs, exec, export, why",
    "copy": "holdfast pull IMAGE, then holdfast push IMAGE REGISTRY/REPOSITORY:TAG (or save, load for files)",
    "cp": "holdfast exec NAME tar -c PATH | tar -x",
    "create": _SERVICE,
    "df": "holdfast system df",
    "info": "holdfast doctor, holdfast status and holdfast system df",
    "inspect": "holdfast image inspect IMAGE; of containers: holdfast ps --json and holdfast why NAME",
    "kill": "holdfast exec NAME kill 1, and it is started anew",
    "ls": "holdfast ps, holdfast images or holdfast status",
    "network": "networks are made as Compose files say; `holdfast ps` shows addresses",
    "port": "holdfast status --json",
    "prune": "holdfast image prune, holdfast builder prune",
    "restart": "holdfast exec NAME kill 1, and it is started anew",
    "rm": "take the service out of its Compose file, or holdfast image rm IMAGE",
    "rmi": "holdfast image rm IMAGE",
    "run": _SERVICE,
    "scale": "replicas: of the service in its Compose file",
    "search": "Holdfast searches no registry; holdfast pull says whether an image is there",
    "start": _FILES,
    "stats": "the metrics of the agent, http://127.0.0.1:9180/metrics where nothing else was said",
    "stop": "replicas: 0 of the service in its Compose file",
    "tag": "holdfast image tag IMAGE NAME",
    "top": "holdfast exec NAME ps",
    "untag": "holdfast image rm NAME",
    "up": _FILES,
    "update": _FILES,
    "volume": "volumes are made as Compose files say; holdfast system df -v shows them",
    "builder build": _BUILD,
    "builder du": "holdfast system df -v",
    "image ls-tags": "Holdfast searches no registry; holdfast pull says whether an image is there",
    "system events": "holdfast events",
    "system info": "holdfast doctor",
    "system prune": "holdfast image prune --all, holdfast builder prune --all",
}

_JSON = "there are no templates: --json, and jq for what you want of it"
_UNLIMITED = "steps have no limits of their own beside --ulimit and --shm-size"
_CERTIFICATES = "say that in the registries file (deploy/registries.yaml explains it)"
_OPTIONS = {
    "--format": _JSON,
    "--filter": "--json, and jq to choose",
    "--creds": "holdfast login REGISTRY",
    "--authfile": "holdfast login REGISTRY keeps credentials, in ~/.docker/config.json",
    "--tls-verify": _CERTIFICATES,
    "--cert-dir": _CERTIFICATES,
    "--disable-content-trust": "whose signatures are needed stands in the policy file (deploy/policy.yaml explains it)",
    "login -p": "others can read command lines: --password-stdin",
    "login --password": "others can read command lines: --password-stdin",
    "import -m": "-c 'LABEL comment=...'",
    "import --message": "-c 'LABEL comment=...'",
    "image history -q": _JSON,
    "image history --quiet": _JSON,
    "image history -H": "sizes are for people to read; --json has bytes and times",
    "history --no-trunc": "that is the history of apps; of an image: holdfast image history --no-trunc IMAGE",
    "build --allow": "--network host and --ssh need root, and nothing else",
    "build --attest": "attestations are not made",
    "build --sbom": "attestations are not made",
    "build --provenance": "attestations are not made",
    "build --builder": "there is one builder, the agent: --host names another agent",
    "build --cpu-quota": _UNLIMITED,
    "build --cpu-shares": _UNLIMITED,
    "build --cpuset-cpus": _UNLIMITED,
    "build --memory": _UNLIMITED,
    "build -m": _UNLIMITED,
    "build --compress": "leave it out: the agent is on this host",
    "build --format": "images are written as OCI says: leave it out",
    "build --layers": "layers are always kept for the next build: leave it out",
    "build --squash": "a last stage FROM scratch with COPY --from=STAGE / / has one layer",
    "build --volume": "RUN --mount=type=bind, or --build-context NAME=DIRECTORY",
    "build -v": "RUN --mount=type=bind, or --build-context NAME=DIRECTORY",
    "build --rm": "nothing is left of steps: leave it out",
    "build --force-rm": "nothing is left of steps: leave it out",
    "build --no-cache-filter": "--no-cache carries every step out",
}

_TOO_MANY = "Got unexpected extra argument"
_MORE = {
    "load": "a file is named with -i: holdfast load -i FILE",
    "pull": "one image at a time",
    "history": "that is the history of apps; of an image: holdfast image history IMAGE",
    "export": "one container at a time",
    "build": "one context: holdfast build -t NAME PATH",
}


def explain_option(error: click.NoSuchOption) -> str:
    """What to type instead of an option that there is not; empty when nobody knows."""
    path, option = _path(error.ctx), error.option_name
    places = (f"{path} {option}", f"{path.rpartition(' ')[2]} {option}", option)
    return next((_OPTIONS[place] for place in places if place in _OPTIONS), "")


def explain_words(error: click.UsageError) -> str:
    """What to type instead of more words than a command takes; empty when nobody knows."""
    return _MORE.get(_path(error.ctx).rpartition(" ")[2], "") if error.message.startswith(_TOO_MANY) else ""


def _path(context: click.Context | None) -> str:
    """``image rm`` of ``holdfast image rm``, whatever the program itself is called."""
    words: list[str] = []
    while context is not None and context.parent is not None:
        words.insert(0, context.info_name or "")
        context = context.parent
    return " ".join(words)


def explain_command(group: click.Context, word: str, known: Iterable[str]) -> str:
    """What to type instead of a command that there is not in a group; empty when nobody knows."""
    path = _path(group)
    if word in ("docker", "podman", "buildah", "skopeo"):
        return f"leave {word} out: holdfast COMMAND"
    said = _WORDS.get(f"{path} {word}".strip())
    if said is not None:
        return said
    near = difflib.get_close_matches(word, list(known), 1)
    return f"did you mean {' '.join(['holdfast', *path.split(), near[0]])}?" if near else ""
