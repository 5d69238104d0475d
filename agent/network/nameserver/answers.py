"""What our name server says by itself, and which questions it has to pass on."""

from __future__ import annotations

from agent.network.nameserver.message import (
    ANY,
    INTERNET,
    MAX_MESSAGE_BYTES,
    NAME_ERROR,
    NO_ERROR,
    PTR,
    REFUSED,
    A,
    Record,
    encode_address,
    encode_domain,
    encode_response,
    reverse_address,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from agent.network.nameserver.message import Query
    from agent.network.nameserver.zone import Zone

TTL_SECONDS = 0


def answer_known(zone: Zone, network: str, client: str, query: Query, limit: int = MAX_MESSAGE_BYTES) -> bytes | None:
    """The reply to ``query`` when the zone has it; None when nobody in the client's networks is called that."""
    if query.klass not in (INTERNET, ANY):
        return encode_response(query, REFUSED)
    address = reverse_address(query.name)
    name = zone.reverse(network, client, address) if address is not None else None
    if name is not None:
        records = [Record(PTR, encode_domain(name), TTL_SECONDS)] if query.kind in (PTR, ANY) else []
        return encode_response(query, NO_ERROR, records, limit=limit)
    addresses = zone.resolve(network, client, query.name)
    if addresses is None:
        return None
    records = [Record(A, encode_address(each), TTL_SECONDS) for each in addresses if query.kind in (A, ANY)]
    return encode_response(query, NO_ERROR, records, limit=limit)


def answer_unknown(zone: Zone, network: str, client: str, query: Query) -> bytes | None:
    """The reply to a query for a name that is not known; None when the host's own name servers may know it.

    On internal networks there is always a reply: no question leaves the host (attack row 41). Nor does one about an
    address of ours.
    """
    address = reverse_address(query.name)
    if (address is not None and zone.is_local(address)) or not zone.may_forward(network, client):
        return encode_response(query, NAME_ERROR)
    return None
