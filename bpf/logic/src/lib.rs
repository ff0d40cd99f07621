//! What happens to a packet: pure decisions, run by the kernel programs and by host tests alike.
