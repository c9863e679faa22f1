"""The first day of a stranger, played as a script: install it, lose the machine, get the run back, resume the training.

    python bench/first_day [yolo] [huggingface] [service] [container] [options]

Each situation plays one page of the documentation, from a fresh clone of this repository, as an ordinary user with an
empty home, on a pseudo-terminal of 80 columns, beside a real training. It takes its commands from the page, types them,
and types the passphrase where it is asked for. It kills the machine in the middle of the training, and continues with
the page on a new one, which has nothing but the repository and the passphrase. It ends well only if the training
continues where the restored checkpoint ends.

A *step* is a command line that the person types, or a file that the person writes or edits, between the fresh clone and
the resumed training, on both machines. What the person does without mlsync as well is no step: the trainer's own
environment, its data, and the start of the first training. A *guess* is everything in which a typed command differs
from the page, unless the page says "Replace ..." of it, and everything that has to be done and is on no page. A day
with a guess, or with more than five steps (on each machine, for the service and the container), ends the script with
status 1.

``service`` takes root and ``systemd-nspawn``: its machines boot a systemd over an overlay of this one. ``container``
takes an ordinary user who may use Docker, and the image that ``deploy/Dockerfile`` is made from.

``yolo.py`` tells a whole day; begin there. ``loss`` is its first half, as Hugging Face's day has it too. ``pages``
reads commands out of a page, ``machine`` is a machine that can die, ``booted`` one that boots, ``terminal`` a shell
on a pseudo-terminal and what it showed, ``person`` follows a page and counts, ``trainers`` has the trainings, and
``outcome`` is what a day came to.

To add a situation, write a module beside ``yolo.py`` with a function ``play(day: Day) -> Outcome``, and name it in
``SITUATIONS`` of ``__main__.py``. Its key in ``results/first_day.json`` is its name there; the shape is that of
``outcome.Outcome.as_json``, and a run replaces only the keys of the situations that it played.
"""
