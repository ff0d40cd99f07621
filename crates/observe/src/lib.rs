//! Views that a human is shown, and the client that asks an agent for them.
