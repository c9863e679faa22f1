"""Packs in cold storage: which ones a version needs, what thawing them takes and costs, and how it is asked for.

``find`` looks, ``terms`` adds up, ``thaw`` asks and waits. Nothing here spends money unless ``thaw`` is called.
"""
