"""Hears changes of the host's nftables (NFNLGRP_NFTABLES): which table, and the end of each transaction."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from agent.kernel.netlink import NETFILTER, Listener, Message, decode_attributes, decode_name

_GROUP = 7
_SUBSYSTEM = 10
_NEW_TABLE, _NEW_GENERATION = 0, 15
_TABLE_NAME = 1
_HEADER_BYTES = 4


@dataclass
class Transaction:
    """What one committed transaction did to one table: touched it at all, made it anew."""

    touched: bool = False
    created: bool = False


class TransactionReader:
    """Collects messages into transactions as seen from one table."""

    def __init__(self, table: str) -> None:
        self._table = table
        self._open = Transaction()

    def feed(self, messages: Iterable[Message]) -> Iterator[Transaction]:
        """The transactions that these messages complete."""
        for message in messages:
            subsystem, kind = message.kind >> 8, message.kind & 0xFF
            if subsystem != _SUBSYSTEM:
                continue
            if kind == _NEW_GENERATION:
                finished, self._open = self._open, Transaction()
                yield finished
                continue
            name = decode_attributes(message.payload[_HEADER_BYTES:]).get(_TABLE_NAME, b"")
            if decode_name(name) == self._table:
                self._open.touched = True
                self._open.created |= kind == _NEW_TABLE


def open_nftables_listener() -> Listener:
    """A listener for the caller's network namespace."""
    return Listener(NETFILTER, [_GROUP])
