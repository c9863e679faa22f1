"""How a manifest becomes bytes and bytes a manifest: canonical MessagePack, room, segments, and what is refused."""
