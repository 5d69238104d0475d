"""The embedded name server: one endpoint for every network's gateway, one zone for all of them."""

from __future__ import annotations

from agent.network.nameserver.answers import answer_known, answer_unknown
from agent.network.nameserver.endpoint import Endpoint, close_pair
from agent.network.nameserver.message import MAX_MESSAGE_BYTES, MalformedQuery, decode_query, udp_limit
from agent.network.nameserver.zone import Zone

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from agent.network.nameserver.endpoint import Ask, Pair
    from agent.network.nameserver.forward import Forwarder
    from agent.network.nameserver.loop import Loop
    from agent.network.nameserver.message import Query

QUERIES_PER_SECOND = 2000


class NameServer:
    """A client that asks more than QUERIES_PER_SECOND is not answered for the rest of that second, so that no
    container can keep the others from their answers."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._endpoints: dict[str, Endpoint] = {}
        self._asked: dict[str, int] = {}
        self._forwarder: Forwarder | None = None
        self._catch_up: Callable[[], bool] = bool
        self.zone = Zone()
        self.told = False

    def connect(self, forwarder: Forwarder, catch_up: Callable[[], bool]) -> None:
        """Say who asks other servers, and how to take in what the agent has said just now: True if that was anything.

        A name that is not known is looked up again after it: so a container finds every name that was published
        before it asked, itself included.
        """
        self._forwarder = forwarder
        self._catch_up = catch_up

    def install(self, zone: Zone, pairs: dict[str, Pair]) -> None:
        """Answer from another zone from now on; ``pairs`` are the sockets of its gateways, as far as given."""
        self.zone = zone
        self.told = True
        self.retain()
        for gateway, pair in pairs.items():
            self.serve(gateway, pair)

    def serve(self, gateway: str, pair: Pair) -> None:
        """Answer at a gateway of the zone's; sockets that are not needed are closed."""
        if gateway in self._endpoints or self.zone.network_at(gateway) is None:
            close_pair(pair)
        else:
            self._endpoints[gateway] = Endpoint(self._loop, gateway, pair, self.handle)

    def retain(self) -> None:
        """Stop answering at gateways that no network of the zone has."""
        for gateway in tuple(self._endpoints):
            if self.zone.network_at(gateway) is None:
                self._endpoints.pop(gateway).close()

    def pause(self) -> None:
        """Read no more questions; those that came are answered, what waits in the sockets is for another one."""
        for endpoint in self._endpoints.values():
            endpoint.pause()

    def find_pair(self, gateway: str) -> Pair | None:
        """The sockets of a gateway that is served; they stay ours."""
        endpoint = self._endpoints.get(gateway)
        return endpoint.pair if endpoint is not None else None

    @property
    def gateways(self) -> tuple[str, ...]:
        """Every gateway that is served."""
        return tuple(self._endpoints)

    def handle(self, ask: Ask) -> None:
        """Answer one question, now or when another server has."""
        if self._is_flooding(ask.client):
            ask.reply(None)
            return
        try:
            query = decode_query(ask.packet)
        except MalformedQuery as error:
            ask.reply(error.reply)
            return
        own = self._answer(ask, query)
        if own is not None:
            ask.reply(own)
        elif self._forwarder is not None:
            self._forwarder.ask(ask.client, query, ask.packet, ask.reply, stream=ask.stream)

    def _answer(self, ask: Ask, query: Query) -> bytes | None:
        limit = MAX_MESSAGE_BYTES if ask.stream else udp_limit(query)
        network = self.zone.network_at(ask.gateway) or ""
        own = answer_known(self.zone, network, ask.client, query, limit)
        if own is None and self._catch_up():
            network = self.zone.network_at(ask.gateway) or ""
            own = answer_known(self.zone, network, ask.client, query, limit)
        return own or answer_unknown(self.zone, network, ask.client, query)

    def _is_flooding(self, client: str) -> bool:
        if not self._asked:
            self._loop.call_later(1.0, self._asked.clear)
        count = self._asked[client] = self._asked.get(client, 0) + 1
        return count > QUERIES_PER_SECOND
