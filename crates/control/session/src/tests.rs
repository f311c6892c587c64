//! Journeys through the loop, each told by the types of its events, and properties of every journey.

mod advisor;
mod bounds;
mod budgets;
mod context;
mod inline;
mod journeys;
mod judge;
mod model;
mod outcomes;
mod properties;
mod servers;
mod threads;
mod web;
mod workflow;
mod workflow_properties;
pub(crate) mod world;
