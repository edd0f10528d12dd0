"""Two agents that know nothing of each other but the registry's URL.

One can translate and says so by its card. The other finds it by a tag, asks it, and prints the answer.
"""

import argparse
import asyncio
import socket
import threading

from protolink import Agent, AgentCard

WORDS = {"hello": "kalimera", "thanks": "efcharisto"}


def free_url() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}"


def agent(name: str, description: str, tags: list[str], registry: str) -> Agent:
    card = AgentCard(name=name, description=description, url=free_url(), tags=tags)
    return Agent(
        card,
        transport="http",
        registry="http",
        registry_url=registry,
        # Of a registry whose `protolink_ttl_ms` is some 15 s; others take no harm.
        registry_heartbeat_interval=5,
        verbosity=0,
    )


def translate(word: str) -> str:
    """Translate an English word into Greek."""
    return WORDS.get(word, word)


async def ask(asker: Agent, word: str) -> str:
    found = await asker.discover_agents({"tags": ["language", "greek"]})
    if not found:
        raise SystemExit("nobody who translates is registered")
    print(f"{asker.card.name} found {found[0].name} at {found[0].url}", flush=True)
    return await asker.peer(found[0]).call_tool("translate", word=word)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--registry", default="http://127.0.0.1:7900", help="any node's URL [%(default)s]")
    parser.add_argument("--word", default="hello", help="what is to be translated [%(default)s]")
    parser.add_argument("--stay", action="store_true", help="stay registered until Ctrl-C")
    arguments = parser.parse_args()

    translator = agent("translator", "Translates English into Greek", ["language", "greek"], arguments.registry)
    translator.add_tool(translate)
    traveller = agent("traveller", "Wants to be understood", ["traveller"], arguments.registry)
    translator.start(background=True)
    traveller.start(background=True)
    try:
        print(f"{arguments.word}: {asyncio.run(ask(traveller, arguments.word))}", flush=True)
        if arguments.stay:
            print("both stay; Ctrl-C unregisters them", flush=True)
            threading.Event().wait()
    except KeyboardInterrupt:
        pass
    finally:
        traveller.stop()
        translator.stop()


if __name__ == "__main__":
    main()
