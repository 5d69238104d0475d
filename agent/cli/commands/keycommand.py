"""key: whom to encrypt files of the state directory for. Needs no agent."""

from __future__ import annotations

import sys
from pathlib import Path

from agent.cli.agentoptions import identity_option
from agent.cli.declare import command, option
from agent.cli.main import DONE
from agent.cli.options import json_option
from agent.cli.output import print_json
from agent.errors import Refused


@command(short_help="Print the key to encrypt files of the state directory for.")
@option("--new", is_flag=True, help="Make a new key, and print its recipient; the old ones still open what they did.")
@identity_option("The secret keys: age's, made at the first use, or an SSH key without a passphrase.")
@json_option
def key(new: bool, identity: Path, as_json: bool) -> int:
    """Print the public key, the recipient, of this host: what is encrypted for it only this host's agent can read. The
    first use makes the secret one, the identity: keep a copy of that file where it is safe, `holdfast backup` does.

    Any other way to encrypt with age does as well: its file may be binary or armored, and is known by its first bytes.
    To replace a key: `holdfast key --new`, then `holdfast encrypt --rekey` each file, then remove the old key, the last
    one of the identity file. The agent takes a changed identity file within seconds, at once with `holdfast sync`.

    \b
    sudo holdfast key
    age -r $(sudo holdfast key) -o shop/app.env secrets.txt
    sudo holdfast key --identity /etc/ssh/ssh_host_ed25519_key
    """
    from agent.store.identities import add_identity, make_identity

    path = identity.absolute()
    try:
        found, made = make_identity(path)
        if new and not made:
            found = add_identity(path)
    except OSError as error:
        raise Refused(f"{path} cannot be written: {error.strerror}", hint=f"sudo {' '.join(sys.argv)}") from error
    if made:
        print(f"made {path}: keep a copy of it where it is safe", file=sys.stderr)
    if as_json:
        print_json({"identity": str(path), "recipients": list(found.recipients)})
    else:
        print(found.recipients[0])
    return DONE
