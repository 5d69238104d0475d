"""backup and restore: the agent's own state, in one file. Neither needs the agent to answer."""

from __future__ import annotations

import os
import shutil
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from agent import __version__
from agent.cli.agentoptions import data_root_option
from agent.cli.declare import argument, command, of_type, option
from agent.cli.main import DONE
from agent.cli.options import json_option
from agent.cli.output import print_json, render_size, safe
from agent.errors import Refused

if TYPE_CHECKING:
    from agent.store.backup import Summary

_LEFT_OUT = (
    "not in it: volumes (back up their files), images (pulled or built again), credentials of registries, and an "
    "--identity outside of the data root"
)

_data_root = data_root_option("The agent's data root.")


@command(short_help="Write the agent's own state to a file, also while it runs.")
@argument("file", type=of_type("Path", path_type=Path))
@_data_root
@json_option
def backup(file: Path, data_root: Path, as_json: bool) -> int:
    """Write the agent's own state to FILE: what its apps were and are to be, their deploys and history, its events.

    FILE is readable by root only; it holds the environments of apps, the key they are sealed under, and the secret
    keys in the data root that open encrypted files (restored behind those that are there). Volumes and images are not
    in it.

    \b
    sudo holdfast backup /var/backups/holdfast-$(date +%F).tar
    """
    from agent.store.backup import write_backup
    from agent.store.layout import DataLayout

    _need_root()
    try:
        summary = write_backup(DataLayout(data_root.absolute()), file.absolute(), __version__)
    except OSError as error:
        raise Refused(f"{file} cannot be written: {error.strerror}") from error
    return _show("backed up to", file, summary, as_json=as_json)


@command(short_help="Put a backup of the agent's own state in place.")
@argument("file", type=of_type("Path", path_type=Path))
@_data_root
@option("--force", is_flag=True, help="Replace the state that is there; containers, images and volumes stay.")
@json_option
def restore(file: Path, data_root: Path, force: bool, as_json: bool) -> int:
    """Put the state in FILE into the data root of an agent that does not run. Everything is checked first.

    Records of what lies on the host it was written on are left out: images are pulled and containers made again.

    \b
    sudo holdfast restore /var/backups/holdfast-2026-01-31.tar
    """
    from agent.daemon.lock import hold_lock
    from agent.store.backup import restore_backup
    from agent.store.layout import DataLayout

    _need_root()
    layout = DataLayout(data_root.absolute())
    fresh = not layout.root.exists()
    try:
        layout.create()
        held = hold_lock(layout.lock, "the data root")
        try:
            summary = restore_backup(layout, file.absolute(), force=force)
        except BaseException:
            if fresh:
                shutil.rmtree(layout.root, ignore_errors=True)
            raise
        finally:
            os.close(held)
    except OSError as error:
        raise Refused(f"{file} cannot be restored to {data_root}: {error.strerror}") from error
    return _show("restored from", file, summary, as_json=as_json)


def _need_root() -> None:
    if os.geteuid() != 0:
        raise Refused("the agent's state is root's", reason="NotRoot", hint=f"sudo {' '.join(sys.argv)}")


def _show(verb: str, file: Path, summary: Summary, *, as_json: bool) -> int:
    if as_json:
        print_json(asdict(summary))
        return DONE
    count = sum(summary.records.values())
    print(
        f"{verb} {safe(str(file))}: {count} records, {render_size(summary.size)}, of holdfast {safe(summary.version)}"
    )
    print(_LEFT_OUT)
    return DONE
