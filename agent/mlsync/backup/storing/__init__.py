"""How content gets into packs once: what lies there already, what must not be reused, what was left half done."""
