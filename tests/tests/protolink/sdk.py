"""What the tests of the Protolink face do with the unmodified SDK. Each scenario takes the nodes' URLs; a failed assertion
fails the test."""

import asyncio
import json
import subprocess
import sys
import time
from pathlib import Path

import httpx2
from protolink.agents import Agent
from protolink.client import RegistryClient
from protolink.core.agent_card import AgentCapabilities, AgentInterface, AgentSkill
from protolink.models import AgentCard
from protolink.transport import HTTPTransport
from protolink.transport.errors import TransportError, TransportRemoteError

PATIENCE = 30

REGISTERED = {"status": "agent registered successfully"}
UNREGISTERED = {"status": "agent unregistered successfully"}
RECORDED = {"status": "agent heartbeat recorded"}
NOT_FOUND = {"status": "agent not found"}


def client(url: str) -> RegistryClient:
    return RegistryClient(HTTPTransport(url=url, timeout=20))


def plain(name: str, tags: list[str] | None = None, description: str = "a test's agent") -> AgentCard:
    return AgentCard(name=name, description=description, url=f"http://{name}", tags=tags or [])


def full(name: str) -> AgentCard:
    return AgentCard(
        name=name,
        description='says "ça va" & <more>',
        url=f"http://{name}:8010/path?a=b",
        version="2.1.0",
        capabilities=AgentCapabilities(streaming=True, has_llm=True, max_concurrency=4, supports_inference=True),
        skills=[
            AgentSkill(
                id="get_weather",
                description="Current weather",
                input_schema={"type": "object", "properties": {"z": {"type": "string"}, "a": {"minimum": 0.1}}},
                output_schema={"type": "object"},
                tags=["weather"],
                examples=[{"city": "Athens"}, 10**30, 0.30000000000000004, None],
            )
        ],
        input_formats=["text/plain", "application/json"],
        output_formats=["application/json"],
        security_schemes={"http": {"type": "http", "scheme": "bearer"}},
        tags=["weather", "forecast"],
        interfaces=[AgentInterface(url="grpc://127.0.0.1:9010", transport="grpc")],
    )


async def names(registry: RegistryClient, **filters) -> list[str]:
    return [card.name for card in await registry.discover(filters or None)]


async def until(what: str, holds) -> None:
    """Waits for a condition; a node that has just been killed may be asked."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            if await holds():
                return
        except TransportError as error:
            what = f"{what} ({error})"
        assert time.monotonic() < deadline, f"{what}: not in time"
        await asyncio.sleep(0.05)


async def life(*urls: str) -> None:
    """One agent's life told to each node in turn and seen at every other at once."""
    nodes = [client(url) for url in urls]
    for place, node in enumerate(nodes):
        other, third = nodes[(place + 1) % len(nodes)], nodes[(place + 2) % len(nodes)]
        card = full(f"agent-{place}")
        assert await node.heartbeat(card.url) == NOT_FOUND
        assert await node.register(card) == REGISTERED
        for reader in nodes:
            found = await reader.discover({"name": card.name})
            assert [json.dumps(c.to_dict()) for c in found] == [json.dumps(card.to_dict())], found
        assert await other.heartbeat(card.url) == RECORDED
        assert await other.heartbeat(card.url) == RECORDED
        assert await names(third, tags=["weather", "forecast"]) == [card.name]
        assert await names(third, tags=["weather", "math"]) == []
        assert await names(third, **{"capabilities.streaming": True, "version": "2.1.0", "role": "worker"}) == [card.name]
        assert await names(third, **{"capabilities.streaming": False}) == []
        assert await names(third, filter_by="x") == [card.name]
        assert await names(third, nonsense="x") == []
        changed = full(f"agent-{place}")
        changed.description = "another"
        assert await third.register(changed) == REGISTERED
        assert [c.description for c in await node.discover()] == ["another"]
        assert await other.unregister(card.url) == UNREGISTERED
        assert await node.unregister(card.url) == UNREGISTERED
        assert await node.unregister("http://unknown") == UNREGISTERED
        assert await names(third) == []
    for name in ["b", "a", "c"]:
        await nodes[0].register(plain(name))
    await nodes[1].register(plain("b"))
    assert await names(nodes[2]) == ["a", "c", "b"]


async def agents(*urls: str) -> None:
    """Agents as their authors run them: registered while they run, found by name, called through what was found."""
    running = []
    for place, url in enumerate(urls):
        card = AgentCard(name=f"runs-{place}", description="adds", url=f"http://127.0.0.1:{free_port()}", tags=["runs"])
        agent = Agent(card, transport="http", registry="http", registry_url=url, registry_heartbeat_interval=0.2, verbosity=0)
        agent.add_tool(add)
        agent.start(background=True)
        running.append(agent)
    first, last = running[0], running[-1]
    found = await first.discover_agents({"tags": ["runs"]})
    assert sorted(card.name for card in found) == [f"runs-{place}" for place in range(len(urls))], found
    assert [skill.id for skill in found[0].skills] == ["add"]
    assert await first.peer(last.card.name).call_tool("add", a=2, b=3) == 5
    for agent in running:
        await asyncio.to_thread(agent.stop)
    assert await names(client(urls[0])) == []


def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


def free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


async def hold(*urls: str) -> None:
    """Sixty agents register at all nodes at once, say so, and beat until the input ends. A node that is gone for a while is
    asked again, as the SDK's own loop does; a node that says that an agent is not there fails the test."""
    cards = [plain(f"held-{n}", tags=["held"]) for n in range(60)]
    clients = [client(urls[n % len(urls)]) for n in range(len(cards))]
    assert await asyncio.gather(*(c.register(card) for c, card in zip(clients, cards))) == [REGISTERED] * len(cards)
    print("ready", flush=True)
    ended = asyncio.Event()
    recorded = [0] * len(cards)

    async def beat(n: int) -> None:
        # Whose node was gone all the time beats once it is back.
        while not ended.is_set() or recorded[n] == 0:
            try:
                answer = await clients[n].heartbeat(cards[n].url)
                assert answer == RECORDED, f"{cards[n].name}: {answer}"
                recorded[n] += 1
            except (TransportError, httpx2.TransportError):
                pass
            await asyncio.sleep(0.3)

    async def follow_input() -> None:
        await asyncio.to_thread(sys.stdin.read)
        ended.set()

    beating = asyncio.gather(*(beat(n) for n in range(len(cards))))
    await follow_input()
    await asyncio.wait_for(beating, PATIENCE)
    assert sorted(await names(clients[0], tags=["held"])) == sorted(card.name for card in cards)
    assert await asyncio.gather(*(c.unregister(card.url) for c, card in zip(clients, cards))) == [UNREGISTERED] * len(cards)
    assert await names(clients[0], tags=["held"]) == []


async def expiry(*urls: str) -> None:
    """With a short TTL: who is silent goes, who beats stays, and who went can come back."""
    nodes = [client(url) for url in urls]
    silent, alive = plain("silent"), plain("alive")
    await nodes[0].register(silent)
    await nodes[1].register(alive)
    begun = time.monotonic()

    async def gone() -> bool:
        assert await nodes[2].heartbeat(alive.url) == RECORDED
        return await names(nodes[0]) == ["alive"]

    await until("the silent one is struck off", gone)
    assert time.monotonic() - begun > 3.5, "it went too early"
    assert await nodes[1].heartbeat(silent.url) == NOT_FOUND
    assert await nodes[1].register(silent) == REGISTERED
    assert (await names(nodes[2]))[-1] == "silent"


async def tenants(*urls: str) -> None:
    """Two tenants by prefix, with agents of one URL; neither sees the other's, nor those without a prefix."""
    one, two = [client(f"{url}/ns/one") for url in urls], [client(f"{url}/ns/two/") for url in urls]
    await one[0].register(plain("shared", description="of one"))
    await two[1].register(plain("shared", description="of two"))
    await client(urls[2]).register(plain("of-all"))
    assert [card.description for card in await one[2].discover()] == ["of one"]
    assert [card.description for card in await two[2].discover()] == ["of two"]
    assert await names(client(urls[0])) == ["of-all"]
    await one[1].unregister("http://shared")
    assert (await names(one[0]), await names(two[0])) == ([], ["shared"])
    assert await one[0].heartbeat("http://shared") == NOT_FOUND
    assert await two[0].heartbeat("http://shared") == RECORDED


async def malformed(*urls: str) -> None:
    """What the SDK can be made to send and is wrong is refused for good, names the fault, and leaves discovery as it is."""
    node = client(urls[0])
    good = plain("good")
    await node.register(good)
    for member, value, fault in [
        ("name", "", "name"),
        ("description", None, "description"),
        ("url", 5, "url"),
        ("capabilities", {"flying": True}, "capabilities.flying"),
        ("skills", [{"id": "s", "price": 1}], "skills[0].price"),
        ("tags", "weather", "tags"),
    ]:
        card = good.to_dict() | {member: value}
        try:
            await node.transport.send(request_spec=RegistryClient.REGISTER_REQUEST, base_url=node.url, data=card)
        except TransportRemoteError as error:
            assert (error.status_code, error.retryable) == (400, False), error
            assert f'"field":"{fault}"' in str(error), error
        else:
            raise AssertionError(f"{member} = {value!r} was let in")
    unsure = good.to_dict() | {"url": "http://null-tags", "name": "null-tags", "tags": None}
    await node.transport.send(request_spec=RegistryClient.REGISTER_REQUEST, base_url=node.url, data=unsure)
    assert await names(client(urls[1]), tags=["x"]) == []
    assert [card.tags for card in await client(urls[1]).discover()] == [[], []]


async def faces(*urls: str) -> None:
    """What others registered is a card for the SDK, and what the SDK registers is left for them to find."""
    node = client(urls[0])
    cards = {card.name: card for card in await node.discover()}
    native = cards["native"]
    assert (native.url, native.transport, native.tags) == ("https://native", "http", ["shared"]), native
    assert [(skill.id, skill.description) for skill in native.skills] == [("ocr", "Reads"), ("plain", "")]
    assert native.skills[0].input_schema == {"type": "object"}
    assert native.capabilities.delegation is False
    assert await names(node, tags=["shared"]) == ["native"]
    assert cards["web"].description == "service web"
    await node.register(full("sdk"))


async def register(*urls: str) -> None:
    await client(urls[0]).register(full("sdk"))


async def soorma(*urls: str) -> None:
    """An agent that Soorma's SDK registered is a card at every node."""
    for url in urls:
        card = {card.name: card for card in await client(url).discover()}["parts-worker"]
        assert (card.version, card.description, card.url) == ("1.0.0", "d", "soorma:parts-1"), card
        assert [(skill.id, skill.description) for skill in card.skills] == [("check_parts", "c")], card.skills


async def cli(*urls: str) -> None:
    """The command line that comes with the SDK."""
    await client(urls[0]).register(full("listed"))
    await client(urls[1]).register(plain("other"))

    def run(*arguments: str) -> str:
        command = [str(Path(sys.executable).with_name("protolink")), "registry", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout

    for url in urls:
        assert "listed" in run("list", "--url", url)
        found = json.loads(run("list", "--url", url, "--tag", "weather", "--tag", "forecast", "--json"))
        assert [card["name"] for card in (found if isinstance(found, list) else found["agents"])] == ["listed"], found
        assert "get_weather" in run("inspect", "listed", "--url", url, "--json")


if __name__ == "__main__":
    scenario, *addresses = sys.argv[1:]
    asyncio.run(globals()[scenario](*addresses))
