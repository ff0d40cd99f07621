//! Words of the domain, always valid: Vip, Frontend, Backend, Service, Snapshot.
