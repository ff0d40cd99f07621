//! Who announces what, where and when: ownership, heartbeats, ARP and NDP.
