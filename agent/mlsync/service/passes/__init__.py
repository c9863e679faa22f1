"""The processes that make the passes: how they start, what they are asked, and what they tell meanwhile.

``pass_process`` is the agent's side, ``pass_start`` the program, which becomes ``pass_child``.
"""
