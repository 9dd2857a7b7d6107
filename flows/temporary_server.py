"""The server of a flow that is started without one: `python -m flows.temporary_server SOCKET`.

Prefect's own is in the flow's process group, so Ctrl-C in a terminal reaches both: the flow then
asks a server that is gone for minutes. And it outlives a flow that is killed.
"""

import os
import signal
import socket
import sys
import threading
import time

GRACE_SECONDS = 5.0
"""For what the server still writes to its database."""


def main() -> None:
    """Serve on the listening socket whose number is given, until standard input ends.

    That is a pipe whose other end the flow alone holds: it ends with the flow, however that ends.
    """
    threading.Thread(target=_end_with_the_flow, daemon=True).start()
    import uvicorn
    from prefect.server.api.server import create_app

    app = create_app(ephemeral=True, final=True)
    config = uvicorn.Config(app, log_level="error", lifespan="on", timeout_graceful_shutdown=1)
    uvicorn.Server(config).run(sockets=[socket.socket(fileno=int(sys.argv[1]))])


def _end_with_the_flow() -> None:
    sys.stdin.buffer.read()
    nowhere = os.open(os.devnull, os.O_WRONLY)  # nobody wants to know what a server says as it ends
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE_SECONDS)
    os._exit(1)


if __name__ == "__main__":
    main()
