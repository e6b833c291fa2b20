"""`esb run --workers N`: a bus in several processes.

    supervisor      loads the project, binds the addresses it listens on, forks the others, and
       │            forks them again when they die; has no event loop and no thread, so it can
       ├── keeper   a `Service` whose bus runs no route: has the store (if that is a file) and the
       │            admin listener, and asks the workers whatever one process cannot know
       └── workers  N of them, each a `Service` without an admin listener: run every route

Workers and keeper are copies of the loaded supervisor, so that what was loaded is in memory once.
Each worker has a link to the keeper (`esb.link`), for the store (`esb.store.remote`) and for what
the keeper asks; keeper and supervisor have a pair of sockets. Who loses the keeper ends as if the
whole bus had: what it had in hand is nobody's any more.

Each worker has a listening socket of its own for each address (SO_REUSEPORT, socket(7)), which the
supervisor keeps: connections that wait there outlive their worker, and a new one takes them. So to
replace workers, after a reload or for a new start, is to fork one at the same sockets, and then to
let the old one go.
"""

from esb.workers.supervisor import supervise

__all__ = ["supervise"]
