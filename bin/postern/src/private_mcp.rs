//! `postern private-mcp`: a private MCP server as a process of its own, for journeys.

use std::io::{Read, stdin};

use postern_testkit::private_mcp::{Manner, PrivateMcp};
use serde_json::json;

use crate::cli::PrivateMcpArguments;
use crate::failure::{Failure, Or};

/// Serves until it is killed.
///
/// # Errors
/// The address cannot be bound.
#[expect(clippy::print_stdout, reason = "the address is the command's result")]
pub(crate) async fn run(arguments: &PrivateMcpArguments) -> Result<(), Failure> {
    let mut token = String::new();
    stdin().read_to_string(&mut token).or_misused("read the token from standard input")?;
    let manner = Manner { json: arguments.json, refuses: arguments.refuse, ..Manner::default() };
    let server = PrivateMcp::start(arguments.listen, token.trim(), manner).await.or_misused("start the MCP server")?;
    println!("{}", json!({"url": format!("http://{}/mcp", server.address)}));
    std::future::pending().await
}
