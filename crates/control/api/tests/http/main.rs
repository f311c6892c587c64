//! The API over loopback: the real router, store and engine, driven with raw HTTP.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod authority;
mod bad_input;
mod bounds;
mod clock;
mod control;
mod credentials;
mod deployments;
mod files;
mod hostile;
mod matrix;
mod memory;
mod memory_access;
mod once;
mod openapi;
mod operator;
mod perimeters;
mod repositories;
mod resources;
mod roles;
mod rubrics;
mod skills;
mod stream;
mod support;
mod table;
mod tunnels;
mod variables;
mod vaults;
mod webhooks;
mod work;
mod workspaces;
