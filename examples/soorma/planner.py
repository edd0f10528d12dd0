"""A Soorma planner on Rollcall: it finds who can check parts, and validates what it is about to send.

    pip install soorma-core==0.9.1
    SOORMA_REGISTRY_URL=http://127.0.0.1:7900 python planner.py

It ends with an exit code of 1 if nobody can. SOORMA_TOKEN is sent as bearer token if it is set.
"""

import asyncio
import os
import sys

import httpx
from soorma.registry.client import RegistryClient

REGISTRY = os.environ.get("SOORMA_REGISTRY_URL", "http://127.0.0.1:7900")
TOKEN = os.environ.get("SOORMA_TOKEN")


async def validate(schema_name: str, payload: object) -> dict:
    """What the gateway does with an event before it delivers it; the SDK has no call for it yet."""
    headers = {"Authorization": f"Bearer {TOKEN}"} if TOKEN else {}
    async with httpx.AsyncClient(base_url=REGISTRY, headers=headers) as client:
        answer = await client.post(f"/v1/schemas/{schema_name}/validate", json={"payload": payload})
        answer.raise_for_status()
        return answer.json()


async def main() -> int:
    async with RegistryClient(REGISTRY, auth_token=TOKEN) as registry:
        workers = await registry.discover(requirements=["check_parts"])
        if not workers:
            print("nobody can check parts")
            return 1
        worker = workers[0]
        event = worker.capabilities[0].consumed_event
        print(f"{worker.agent_id} ({worker.name} {worker.version}) takes {event.event_name} on {event.topic}")
        for payload in ({"vehicle_id": "v-17", "parts": ["brake pad"]}, {"parts": "brake pad"}):
            told = await validate(event.payload_schema_name, payload)
            faults = "; ".join(f"{fault['path'] or '/'}: {fault['message']}" for fault in told["errors"])
            print(f"{payload} is {'valid' if told['valid'] else 'not valid: ' + faults}")
    return 0


sys.exit(asyncio.run(main()))
