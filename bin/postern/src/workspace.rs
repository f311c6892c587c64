//! `postern workspace`: workspaces, for how long they keep sessions, and erasing one. For the operator, on the server's machine.

use serde_json::{Value, json};

use crate::cli::{Place, WorkspaceVerb};
use crate::client::Client;
use crate::failure::Failure;

const PATH: &str = "/v1/workspaces";

/// Runs the verb.
///
/// # Errors
/// The server is not reachable or refuses; the name is not that of the workspace that is to be erased.
#[expect(clippy::print_stdout, reason = "what was asked for is the command's result")]
pub(crate) async fn run(verb: &WorkspaceVerb) -> Result<(), Failure> {
    match verb {
        WorkspaceVerb::Create { name, retention_days, place } => {
            let body = json!({"name": name, "retention_days": retention_days});
            let made = client(place).post(PATH, &body).await?;
            println!("{}", made["id"].as_str().unwrap_or_default());
        }
        WorkspaceVerb::List { place } => {
            for workspace in client(place).list(PATH).await? {
                println!("{}", line(&workspace));
            }
        }
        WorkspaceVerb::Retain { id, days, place } => {
            let changed = client(place).post(&format!("{PATH}/{id}"), &json!({"retention_days": days})).await?;
            println!("{}", line(&changed));
        }
        WorkspaceVerb::Erase { id, name, place } => {
            let client = client(place);
            let found = client.list(PATH).await?.into_iter().find(|one| one["id"].as_str() == Some(id));
            if found.and_then(|one| one["name"].as_str().map(str::to_owned)).as_ref() != Some(name) {
                return Err(Failure::Misused(format!("{id} is no workspace of this name: `postern workspace list`")));
            }
            client.delete(&format!("{PATH}/{id}")).await?;
            println!("{id} is erased; bytes of its files go within minutes");
        }
    }
    Ok(())
}

fn client(place: &Place) -> Client {
    Client::operator(&place.data_dir.join("operator.sock"))
}

fn line(workspace: &Value) -> String {
    let field = |name: &str| workspace[name].as_str().unwrap_or("-").to_owned();
    let kept = match workspace["retention_days"].as_u64() {
        Some(days) => format!("sessions at rest for {days} days"),
        None => "sessions for good".to_owned(),
    };
    format!("{}  keeps {kept}  {}", field("id"), field("name"))
}
