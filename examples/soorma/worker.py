"""A Soorma worker on Rollcall: it brings its schema and events, registers, stays alive, and leaves.

    pip install soorma-core==0.9.1
    SOORMA_REGISTRY_URL=http://127.0.0.1:7900 python worker.py

It ends with Ctrl-C. SOORMA_TOKEN is sent as bearer token if it is set.
"""

import asyncio
import contextlib
import os
import signal

from soorma.registry.client import RegistryClient
from soorma_common import AgentCapability, AgentDefinition, EventDefinition, PayloadSchema

REGISTRY = os.environ.get("SOORMA_REGISTRY_URL", "http://127.0.0.1:7900")
AGENT_ID = os.environ.get("AGENT_ID", "parts-1")
HEARTBEAT_S = float(os.environ.get("HEARTBEAT_S", "30"))

SCHEMA = PayloadSchema(
    schema_name="parts_check_v1",
    version="1.0.0",
    json_schema={
        "type": "object",
        "required": ["vehicle_id"],
        "properties": {"vehicle_id": {"type": "string"}, "parts": {"type": "array", "items": {"type": "string"}}},
    },
    owner_agent_id=AGENT_ID,
)
REQUESTED = EventDefinition(
    event_name="parts.check.requested",
    topic="action-requests",
    description="Are these parts in stock?",
    payload_schema_name=SCHEMA.schema_name,
)
COMPLETED = EventDefinition(
    event_name="parts.check.completed", topic="action-results", description="What is in stock, and what is not."
)
AGENT = AgentDefinition(
    agent_id=AGENT_ID,
    name="parts-inventory-worker",
    version="1.0.0",
    description="Knows what is in stock",
    capabilities=[
        AgentCapability(
            task_name="check_parts",
            description="Check the stock of parts",
            consumed_event=REQUESTED,
            produced_events=[COMPLETED],
        )
    ],
)


async def register(registry: RegistryClient) -> None:
    # A version of a schema is registered once; whoever comes later finds it there.
    if await registry.get_schema(SCHEMA.schema_name, SCHEMA.version) is None:
        await registry.register_schema(SCHEMA)
    for event in (REQUESTED, COMPLETED):
        await registry.register_event(event)
    await registry.register_agent(AGENT)
    print(f"{AGENT_ID} is on the roll", flush=True)


async def main() -> None:
    ended = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    async with RegistryClient(REGISTRY, auth_token=os.environ.get("SOORMA_TOKEN")) as registry:
        await register(registry)
        while not ended.is_set():
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(ended.wait(), HEARTBEAT_S)
                break
            if not await registry.refresh_heartbeat(AGENT_ID):
                await register(registry)
        await registry.deregister_agent(AGENT_ID)
        print(f"{AGENT_ID} has left", flush=True)


asyncio.run(main())
