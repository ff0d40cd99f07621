//! Real sockets in namespaces of their own.
