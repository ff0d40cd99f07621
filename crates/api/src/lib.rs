//! The Kubernetes surface: CRD types, conditions, conversions to the model.
