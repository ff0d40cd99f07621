//! How a process starts, lives and stops: supervisor, shutdown, clock, tracing, metrics, configuration.
