"""One thin file per DVC stage: params, library, outputs."""
