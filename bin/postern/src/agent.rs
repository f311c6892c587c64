//! `postern agent digest`: the digest of an agent's effective definition, which a zone can name.

use crate::cli::AgentVerb;
use crate::client::Client;
use crate::failure::Failure;

/// Runs the verb.
///
/// # Errors
/// The server is not reachable or has no such agent.
#[expect(clippy::print_stdout, reason = "the digest is the command's result")]
pub(crate) async fn run(verb: &AgentVerb) -> Result<(), Failure> {
    let AgentVerb::Digest { id, server } = verb;
    let agent = Client::of(server)?.get(&format!("/v1/agents/{id}")).await?;
    println!("{}", postern_runner::definition_digest(&agent));
    Ok(())
}
