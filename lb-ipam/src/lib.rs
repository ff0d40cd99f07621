//! Who gets which address: pools and VIP allocation.
