//! API, operator and agent in one process, for machines without Kubernetes.
