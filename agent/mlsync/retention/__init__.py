"""Which versions a policy keeps: the words of its rules, and pure functions of facts about versions.

Nothing here reads a store, a clock or a configuration: the same facts give the same answer, on any machine.
"""
