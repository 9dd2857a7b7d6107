"""One thin file per DVC stage: params, library, outputs."""

import os

# torch reads it when it is imported: what its agent prints of a lost rendezvous, with C++ frames,
# is said in one line.
os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "FATAL")
