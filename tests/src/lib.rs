//! What no single crate can prove: BPF test-run, namespaces, the API boundary.
