"""The unmodified SDK against the nodes whose URLs are given. One function for each scenario; the test that starts it kills
and restarts nodes when a line `ready` comes, and says `go` when that is done."""

import asyncio
import os
import sys

import httpx
import jwt
from soorma.registry.client import RegistryClient
from soorma_common import AgentCapability, AgentDefinition, EventDefinition, PayloadSchema

DEADLINE_S = 60.0


def event(name: str, topic: str = "action-requests", **more: object) -> EventDefinition:
    return EventDefinition(event_name=name, topic=topic, description=f"desc {name}", **more)


def agent(agent_id: str, name: str, task: str = "check_parts") -> AgentDefinition:
    capability = AgentCapability(
        task_name=task, description="c", consumed_event=event(f"{task}.requested"), produced_events=[event(f"{task}.completed")]
    )
    return AgentDefinition(agent_id=agent_id, name=name, description="d", capabilities=[capability])


async def until(what: str, holds) -> None:
    """Waits for a condition; the only place that sleeps."""
    give_up = asyncio.get_running_loop().time() + DEADLINE_S
    while not await holds():
        assert asyncio.get_running_loop().time() < give_up, f"{what}: not in time"
        await asyncio.sleep(0.05)


async def raises(status: int, call) -> None:
    try:
        await call
    except httpx.HTTPStatusError as error:
        assert error.response.status_code == status, error.response.text
    else:
        raise AssertionError(f"expected {status}")


async def meanwhile() -> None:
    """Lets the test do something to the nodes."""
    print("ready", flush=True)
    line = await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
    assert line.strip() == "go", line


def clients(urls: list[str], token: str | None = None) -> list[RegistryClient]:
    return [RegistryClient(url, auth_token=token) for url in urls]


async def life(urls: list[str]) -> None:
    """Everything that the client can do, each step at another node than the one before."""
    nodes = clients(urls)
    turn = 0

    def next_node() -> RegistryClient:
        nonlocal turn
        turn += 1
        return nodes[turn % len(nodes)]

    for round_ in range(len(nodes)):
        agent_id = f"parts-{round_}"
        schema = PayloadSchema(schema_name=f"s{round_}", version="1.0.0", json_schema={"type": "object"}, owner_agent_id=agent_id)
        answer = await next_node().register_schema(schema)
        assert answer.success and answer.version == "1.0.0"
        await raises(409, next_node().register_schema(schema))
        found = await next_node().get_schema(f"s{round_}")
        assert found.json_schema == {"type": "object"} and found.created_at is not None
        older = schema.model_copy(update={"version": "0.9.0"})
        await next_node().register_schema(older)
        assert (await next_node().get_schema(f"s{round_}")).version == "0.9.0", "registered last"
        assert (await next_node().get_schema(f"s{round_}", "1.0.0")).version == "1.0.0"
        assert await next_node().get_schema("none") is None
        assert [s.version for s in await next_node().list_schemas(agent_id)] == ["1.0.0", "0.9.0"]

        whole = event(f"order.{round_}", payload_schema_name=f"s{round_}", payload_schema={"type": "object", "x": [1, None]})
        assert (await next_node().register_event(whole)).message.endswith("registered successfully.")
        assert await next_node().get_event(whole.event_name) == whole
        moved = whole.model_copy(update={"topic": "business-facts"})
        assert (await next_node().register_event(moved)).message.endswith("updated successfully.")
        assert moved in await next_node().get_events_by_topic("business-facts")
        assert len(await next_node().get_all_events()) == round_ + 1

        definition = agent(agent_id, f"worker-{round_}")
        assert (await next_node().register_agent(definition)).message == f"Agent '{agent_id}' registered successfully."
        assert (await next_node().register_agent(definition)).message == f"Agent '{agent_id}' updated successfully."
        found = await next_node().get_agent(agent_id)
        assert found.capabilities == definition.capabilities
        assert found.consumed_events == ["check_parts.requested"]
        assert [a.agent_id for a in await next_node().query_agents(name=f"WORKER-{round_}")] == [agent_id]
        assert agent_id in [a.agent_id for a in await next_node().query_agents(consumed_event="check_parts.requested")]
        assert agent_id in [a.agent_id for a in await next_node().query_agents(produced_event="check_parts.completed")]
        assert agent_id in [a.agent_id for a in await next_node().discover(["PARTS"])]
        found = [a for a in await next_node().discover_agents("check_parts.requested") if a.agent_id == agent_id]
        assert [(a.name, a.version) for a in found] == [(f"worker-{round_}", "1.0.0")]
        assert await next_node().discover(["nothing like it"]) == []
        for _ in range(2):
            assert await next_node().refresh_heartbeat(agent_id)

        # A restarted instance stands in the place of the one before; another version beside it.
        await next_node().register_agent(agent(f"{agent_id}-again", f"worker-{round_}"))
        await next_node().register_agent(agent(f"{agent_id}-green", f"worker-{round_}:2.0.0"))
        found = await next_node().query_agents(name=f"worker-{round_}:")
        assert [a.agent_id for a in found] == [f"{agent_id}-again", f"{agent_id}-green"]
        assert (await next_node().get_agent(agent_id)).agent_id == agent_id

    for round_ in range(len(nodes)):
        assert await next_node().deregister_agent(f"parts-{round_}")
        assert not await next_node().deregister_agent(f"parts-{round_}")
        assert not await next_node().refresh_heartbeat(f"parts-{round_}")
        assert await next_node().get_agent(f"parts-{round_}") is None


async def failover(urls: list[str]) -> None:
    """60 agents at once, and the leader killed under them: nobody is lost, and each goes on beating."""
    count = 60
    nodes = clients(urls)
    register = [nodes[n % len(nodes)].register_agent(agent(f"a-{n:02}", f"worker-{n:02}")) for n in range(count)]
    assert all(answer.success for answer in await asyncio.gather(*register))
    await meanwhile()
    # Whoever asks a node that is gone asks another one.
    alive = []
    for node in nodes:
        try:
            await node.get_all_events()
            alive.append(node)
        except httpx.TransportError:
            pass
    assert len(alive) == len(nodes) - 1
    for node in alive:
        found = await node.query_agents()
        assert [a.agent_id for a in found] == [f"a-{n:02}" for n in range(count)], len(found)
    beats = [alive[n % len(alive)].refresh_heartbeat(f"a-{n:02}") for n in range(count)]
    assert all(await asyncio.gather(*beats))


async def expiry(urls: list[str]) -> None:
    """A TTL of 2 s and a cleanup 10 s after it; the agent that beats stays."""
    nodes = clients(urls)
    await nodes[0].register_agent(agent("beats", "one"))
    await nodes[0].register_agent(agent("silent", "two"))

    async def gone() -> bool:
        assert await nodes[1].refresh_heartbeat("beats")
        return [a.agent_id for a in await nodes[2].query_agents()] == ["beats"]

    await until("the silent one expires", gone)
    assert await nodes[1].refresh_heartbeat("silent"), "it comes back"
    assert len(await nodes[2].query_agents()) == 2

    async def cleaned_up() -> bool:
        assert await nodes[1].refresh_heartbeat("beats")
        async with httpx.AsyncClient(base_url=urls[0]) as client:
            answer = await client.get("/v1/agents", params={"include_expired": "true"})
            return [a["agentId"] for a in answer.json()["agents"]] == ["beats"]

    await until("the silent one is cleaned up", cleaned_up)
    assert not await nodes[2].refresh_heartbeat("silent")
    assert not await nodes[0].deregister_agent("silent")


async def tenants(urls: list[str]) -> None:
    """Tokens decide; the same names in two tenants have nothing to do with each other."""
    secret = os.environ["ROLLCALL_JWT_SECRET"]

    def token(tenant: str, **claims: object) -> str:
        return jwt.encode({"exp": 4102444800, "platform_tenant_id": tenant, **claims}, secret, algorithm="HS256")

    red, blue = clients(urls, token("red", principal_type="worker", roles=[])), clients(urls, token("x", tenant_id="blue"))
    schema = PayloadSchema(schema_name="s", version="1", json_schema={})
    await red[0].register_agent(agent("a", "worker"))
    await red[1].register_schema(schema)
    await red[2].register_event(event("e"))
    for node in blue:
        assert await node.get_agent("a") is None
        assert await node.query_agents() == [] and await node.discover(["parts"]) == []
        assert await node.get_schema("s") is None and await node.list_schemas() == []
        assert await node.get_all_events() == []
        assert not await node.refresh_heartbeat("a") and not await node.deregister_agent("a")
    await blue[0].register_schema(schema)
    assert (await blue[1].register_agent(agent("a", "other"))).message == "Agent 'a' registered successfully."
    assert (await red[2].get_agent("a")).name == "worker:1.0.0"
    assert await blue[0].deregister_agent("a")
    assert await red[0].get_agent("a") is not None
    for refused in (None, "x.y.z", token("red", exp=1), jwt.encode({"platform_tenant_id": "red"}, secret), jwt.encode({"exp": 4102444800, "platform_tenant_id": "red"}, "x" * 32)):
        await raises(401, clients(urls, refused)[0].query_agents())


async def malformed(urls: list[str]) -> None:
    """What no SDK sends is refused by name, and the node goes on."""
    async with httpx.AsyncClient(base_url=urls[0]) as client:
        for body in ({}, [], {"agent": None}, {"agent": []}, {"agent": {"agentId": 1}}):
            answer = await client.post("/v1/agents", json=body)
            assert answer.status_code == 422 and answer.json()["detail"], answer.text
        for content in (b"", b"{", b"\xff\xfe", b"[" * 100_000, b'{"agent":' + b"x" * 70_000):
            answer = await client.post("/v1/agents", content=content, headers={"content-type": "application/json"})
            assert answer.status_code in (413, 422), (content[:20], answer.status_code)
        definition = agent("a", "n").model_dump(by_alias=True)
        definition["capabilities"][0]["consumedEvent"] = "a name is not enough any more"
        assert (await client.post("/v1/agents", json={"agent": definition})).status_code == 422
        assert (await client.get("/api/v1/agents")).status_code == 404
        assert (await client.get("/health")).json() == {"status": "healthy"}
    registry = clients(urls)[0]
    assert await registry.query_agents() == []


async def faces(urls: list[str]) -> None:
    """What another face registered is found by what it can do, and an agent is left for the other faces to find."""
    for registry in clients(urls):
        found = await registry.discover(["get_weather"])
        assert [(a.name, a.version, a.description) for a in found] == [("sdk", "2.1.0", 'says "ça va" & <more>')], found
        assert [c.task_name for c in found[0].capabilities] == ["get_weather"], found
        assert found[0].capabilities[0].consumed_event.payload_schema["type"] == "object", found
    await clients(urls)[0].register_agent(agent("parts-1", "parts-worker"))


async def main() -> None:
    scenario, urls = sys.argv[1], sys.argv[2:]
    scenarios = (life, failover, expiry, tenants, malformed, faces)
    await {run.__name__: run for run in scenarios}[scenario](urls)
    print("done", flush=True)


asyncio.run(main())
