"""save and export: an image, or a container's root file system, as a tar."""

from __future__ import annotations

import sys

from agent.cli.declare import argument, command, of_type, option
from agent.cli.main import DONE
from agent.cli.options import host_option
from agent.cli.tars.bar import counted, transfer_bar
from agent.cli.tars.files import refuse_terminal, write_layout, write_target
from agent.cli.tars.transfer import download

_DOCKER, _DIRECTORY = "docker-archive", "oci-dir"


@command()
@argument("images", metavar="IMAGE...", nargs=-1, required=True)
@option("-o", "--output", metavar="FILE", help="Write to a file (or directory), not to standard output.")
@option(
    "--format",
    "form",
    type=of_type("Choice", [_DOCKER, "oci", "oci-archive", _DIRECTORY]),
    default=_DOCKER,
    show_default=True,
    help="`docker-archive` is read by docker load, podman and skopeo, and is an OCI layout as well; `oci` "
    "(or `oci-archive`) is only that; `oci-dir` writes it as a directory.",
)
@host_option
def save(images: tuple[str, ...], output: str | None, form: str, host: str) -> int:
    """Write images with all their layers to a tar.

    `holdfast load`, docker, podman, skopeo and umoci read it.

    \b
    holdfast save -o web.tar registry.example/shop/web:1.4
    holdfast save web:1 db:2 | zstd > both.tar.zst
    holdfast save --format oci-dir -o layout web:1
    """
    parameters = [*(("name", name) for name in images), ("format", form if form == _DOCKER else "oci")]
    write = write_layout if form == _DIRECTORY else write_target
    if form != _DIRECTORY:
        refuse_terminal(output, sys.stdout)
    with transfer_bar("saving", None) as count:
        write(output, counted(download(host, "/image/save", parameters), count))
    return DONE


@command()
@argument("container", metavar="CONTAINER|IMAGE")
@option("-o", "--output", metavar="FILE", help="Write to a file, not to standard output.")
@option("--image", "of_image", is_flag=True, help="Of an image of that name, not of a container.")
@host_option
def export(container: str, output: str | None, of_image: bool, host: str) -> int:
    """Write the root file system of a container or an image to a tar.

    The container may run or not; volumes and other mounts are left out.

    \b
    holdfast export -o root.tar shop-web-1
    holdfast export --image alpine:3 | tar -tv
    """
    refuse_terminal(output, sys.stdout)
    with transfer_bar("exporting", None) as count:
        path, name = ("/image/export", "name") if of_image else ("/export", "target")
        write_target(output, counted(download(host, path, [(name, container)]), count))
    return DONE
