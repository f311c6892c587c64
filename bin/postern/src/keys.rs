//! `postern key`: API keys, each with a role and, where it shall be, for certain vaults. For the operator, on the
//! server's machine: a key cannot make itself a successor.

use serde_json::{Value, json};

use crate::cli::{AtWorkspace, KeyVerb, Place};
use crate::client::Client;
use crate::failure::Failure;

/// Runs the verb.
///
/// # Errors
/// The server is not reachable or refuses.
#[expect(clippy::print_stdout, reason = "the key is the command's result, shown this once")]
pub(crate) async fn run(verb: &KeyVerb) -> Result<(), Failure> {
    match verb {
        KeyVerb::Issue { name, role, vaults, at, place } => {
            let mut body = json!({"name": name, "role": role.as_str()});
            if !vaults.is_empty() {
                body["vault_ids"] = json!(vaults);
            }
            let issued = client(at, place).post("/v1/api_keys", &body).await?;
            println!("{}", issued["key"].as_str().unwrap_or_default());
        }
        KeyVerb::List { at, place } => {
            for key in client(at, place).list("/v1/api_keys").await? {
                println!("{}", line(&key));
            }
        }
        KeyVerb::Revoke { id, at, place } => {
            client(at, place).delete(&format!("/v1/api_keys/{id}")).await?;
            println!("{id} is revoked: it opens nothing any more, and streams that it opened end");
        }
    }
    Ok(())
}

fn client(at: &AtWorkspace, place: &Place) -> Client {
    Client::operator(&place.data_dir.join("operator.sock")).within(at)
}

fn line(key: &Value) -> String {
    let field = |name: &str| key[name].as_str().unwrap_or("-").to_owned();
    let vaults = match key["vault_ids"].as_array() {
        Some(ids) => ids.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(","),
        None => "every vault".to_owned(),
    };
    let state = if key["revoked_at"].is_null() { "live" } else { "revoked" };
    format!("{}  {}...  {:<9}  {state:<7}  {vaults}  {}", field("id"), field("hint"), field("role"), field("name"))
}
