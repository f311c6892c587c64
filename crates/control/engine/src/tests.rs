//! The engine over a real database and a scripted model.

mod crash;
mod endpoint;
mod journeys;
mod rules;
mod stage;
