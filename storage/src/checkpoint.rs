//! The local checkpoint: what a server needs to know to start while its store is away.
