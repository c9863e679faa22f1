"""Sets a bucket up for a repository: what is wanted and what is set make a plan, which is shown and carried out.

``wanted`` is what the options say; ``facts`` is what a bucket is set to; ``plan`` compares them, setting by setting
(``lifecycle`` and ``replication`` have modules of their own); ``apply`` carries a plan out and looks again.
``providers`` says what servers lack. ``terraform`` and ``cloudformation`` write the same plan for other tools.
"""
