//! Load-balancer map contents: Maglev, transitions, plan and apply.
