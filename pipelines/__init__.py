"""One thin file per DVC stage: params, library, outputs."""

import os

# torch reads it when it is imported; else its agents warn of every host that has no name in the DNS.
os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
