"""Programs that run in a process of their own, most of them in the trainer's Python, from 3.9 on."""
