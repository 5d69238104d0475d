"""What our name server says by itself, and which questions it has to pass on."""

from __future__ import annotations

from agent.network.dns_message import (
    ANY,
    INTERNET,
    MAX_MESSAGE_BYTES,
    NAME_ERROR,
    NO_ERROR,
    PTR,
    REFUSED,
    A,
    Query,
    Record,
    encode_address,
    encode_domain,
    encode_response,
    reverse_address,
)
from agent.network.names import NameTable

TTL_SECONDS = 0


def answer(names: NameTable, network: str, client: str, query: Query, limit: int = MAX_MESSAGE_BYTES) -> bytes | None:
    """The reply to ``query``; None when only the host's own name servers may know.

    On internal networks there is always a reply: no question leaves the host (attack row 41).
    """
    if query.klass not in (INTERNET, ANY):
        return encode_response(query, REFUSED)
    address = reverse_address(query.name)
    if address is not None:
        name = names.reverse(network, client, address)
        if name is not None:
            records = [Record(PTR, encode_domain(name), TTL_SECONDS)] if query.kind in (PTR, ANY) else []
            return encode_response(query, NO_ERROR, records, limit=limit)
        if names.is_local(address):
            return encode_response(query, NAME_ERROR)
    addresses = names.resolve(network, client, query.name)
    if addresses is not None:
        records = [Record(A, encode_address(each), TTL_SECONDS) for each in addresses if query.kind in (A, ANY)]
        return encode_response(query, NO_ERROR, records, limit=limit)
    if not names.may_forward(network, client):
        return encode_response(query, NAME_ERROR)
    return None
