"""Can this host read encrypted files of the state directory?"""

from __future__ import annotations

from agent.cli.doctor.finding import Check, Host, Outcome, fail, ok
from agent.errors import HoldfastError
from agent.store.layout import DataLayout


def check_identity(host: Host) -> Outcome:
    """What the identity file of the data root holds; one that is there but cannot be used refuses every such app."""
    from agent.store.identities import NoIdentity, read_identities

    try:
        found = read_identities(DataLayout(host.data_root).identity)
    except NoIdentity:
        return ok("there is no key in the data root: encrypted files need one, `holdfast key` makes it")
    except HoldfastError as error:
        return fail(error.message, error.hint or "put the right file back")
    others = f", and {len(found.recipients) - 1} older" if len(found.recipients) > 1 else ""
    return ok(f"encrypted files are for {found.recipients[0]}{others}")


CHECKS = (Check("identity", check_identity, needs_root=True),)
