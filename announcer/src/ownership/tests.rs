//! The engine on a simulated segment: rules as sentences, then random histories, then every history up to a bound.

mod balance;
mod canon;
mod histories;
mod model;
mod rules;
mod sim;
