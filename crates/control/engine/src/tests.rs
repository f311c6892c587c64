//! The engine over a real database and a scripted model.

mod advisor;
mod bounds;
mod budgets;
mod context;
mod crash;
mod deployments;
mod endpoint;
mod fake_mcp;
mod files;
mod journeys;
mod judge;
mod mcp;
mod mcp_crash;
mod mcp_results;
mod oauth;
mod outcomes;
mod retention;
mod rules;
mod skills;
mod snapshots;
mod stage;
mod streams;
mod system_messages;
mod threads;
mod web;
mod webhooks;
