//! The engine on a simulated segment: rules as sentences, then random histories.

mod balance;
mod histories;
mod rules;
mod sim;
