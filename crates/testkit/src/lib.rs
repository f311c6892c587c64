//! What rehearsals, tests and benchmarks need around a real stack: a model that plays a script, a private API that
//! refuses strangers, and listeners that remember whoever reached them. Never part of a deployment's data path.

pub mod certificate;
pub mod collector;
pub mod names;
pub mod private_api;
pub mod private_mcp;
pub mod rehearsal;
pub mod relay;
mod socket;
pub mod token_endpoint;
