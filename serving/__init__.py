"""The gateway: an asyncio shell and the wire around the decisions of `serving.core`."""
