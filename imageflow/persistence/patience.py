"""How long to wait for a database that is down, in seconds: `Database.transact(work, patience=REQUEST)`.

Work that is retried anyway, such as a heartbeat or a look for work, does not wait: that is the default.
"""

from __future__ import annotations

REQUEST = 10.0  # a user or a client of the API waits for the answer: a server restarts in less, and they wait no longer
EVENT = 5.0  # most senders of events give up after 10 s, and send again
RECORD = 5.0  # the result of a publication: if it can't be recorded, the next attempt finds it done
BUILD = 60.0  # a running build: minutes of work would be lost, and no user waits for it
