//! `postern credential`: puts a secret into a vault, sealed here. The server gets ciphertext for perimeters whose keys this machine was told or shown, and never the
//! value.

use postern_model::ids::CredentialId;
use postern_model::vault::{CredentialAuth, InjectionLocation};
use postern_secret::seal::{Binding, Places, Recipient, Sealed, seal};
use postern_secret::{SecretBytes, admit};
use serde_json::{Value, json};

use crate::cli::{CredentialKind, CredentialVerb, RequestPlace, Sealing, Server};
use crate::client::Client;
use crate::failure::{Failure, Or};
use crate::secrets;

/// Runs the verb.
///
/// # Errors
/// The value is refused, no perimeter is there to seal it to, or the server is not reachable or refuses.
#[expect(clippy::print_stdout, reason = "the credential's id is the command's result")]
pub(crate) async fn run(verb: &CredentialVerb) -> Result<(), Failure> {
    match verb {
        CredentialVerb::Create { vault, kind, name, sealing, server } => {
            let client = Client::of(server)?;
            let (id, mut auth) = (CredentialId::generate(), auth_of(kind));
            let sealed = sealed(&client, sealing, workspace(server), vault, id.as_str(), &auth, &value(vault)?).await?;
            auth["sealed"] = json!(sealed);
            let mut body = json!({"id": id, "auth": auth});
            if let Some(name) = name {
                body["display_name"] = json!(name);
            }
            client.post(&format!("/v1/vaults/{vault}/credentials"), &body).await?;
            println!("{id}");
        }
        CredentialVerb::Rotate { id, vault, sealing, server } => {
            let client = Client::of(server)?;
            let path = format!("/v1/vaults/{vault}/credentials/{id}");
            let auth = client.get(&path).await?["auth"].take();
            let sealed = sealed(&client, sealing, workspace(server), vault, id, &auth, &value(id)?).await?;
            client.post(&path, &json!({"auth": {"type": auth["type"], "sealed": sealed}})).await?;
            println!("{id}");
        }
    }
    Ok(())
}

/// The workspace that the value is sealed to, and that the server is asked for.
fn workspace(server: &Server) -> &str {
    server.at.workspace.as_deref().unwrap_or(OPERATORS)
}

fn value(name: &str) -> Result<SecretBytes, Failure> {
    admit(secrets::value(name)?, false).map_err(|weak| Failure::Misused(format!("the value: {weak}")))
}

/// As the API takes and shows it.
fn auth_of(kind: &CredentialKind) -> Value {
    if let Some(url) = &kind.bearer {
        return json!({"type": "static_bearer", "mcp_server_url": url});
    }
    let networking = match &kind.hosts[..] {
        [] => json!({"type": "unrestricted"}),
        hosts => {
            json!({"type": "limited", "allowed_hosts": hosts.iter().map(|host| host.to_ascii_lowercase()).collect::<Vec<_>>()})
        }
    };
    let may = |place| kind.places.is_empty() || kind.places.contains(&place);
    json!({
        "type": "environment_variable",
        "secret_name": kind.variable,
        "networking": networking,
        "injection_location": {"header": may(RequestPlace::Header), "body": may(RequestPlace::Body)},
    })
}

async fn sealed(
    client: &Client,
    sealing: &Sealing,
    workspace: &str,
    vault: &str,
    id: &str,
    auth: &Value,
    value: &SecretBytes,
) -> Result<Sealed, Failure> {
    let auth: CredentialAuth = serde_json::from_value(auth.clone())
        .map_err(|_| Failure::Misused("this kind of credential is not sealed here".to_owned()))?;
    let binding = binding(workspace, vault, id, &auth)?;
    let recipients = recipients(client, sealing).await?;
    seal(value, &binding, &recipients).map_err(|error| Failure::Misused(error.to_string()))
}

/// What the value is sealed to: the very fields that the server will show and custody will check.
fn binding(workspace: &str, vault: &str, id: &str, auth: &CredentialAuth) -> Result<Binding, Failure> {
    let mut binding = Binding {
        client_id: None,
        credential: id.to_owned(),
        hosts: Vec::new(),
        injection: None,
        kind: auth.kind().as_str().to_owned(),
        mcp_url: None,
        refresh: None,
        secret_name: None,
        token_endpoint: None,
        vault: vault.to_owned(),
        workspace: workspace.to_owned(),
    };
    match auth {
        CredentialAuth::StaticBearer { mcp_server_url } => {
            let url = postern_policy::normalise_mcp_url(mcp_server_url);
            binding.mcp_url = Some(url.map_err(|why| Failure::Misused(format!("--bearer: {why}")))?);
        }
        CredentialAuth::EnvironmentVariable { secret_name, networking, injection_location } => {
            let InjectionLocation { header, body } = *injection_location;
            binding.hosts = networking.hosts();
            binding.injection = Some(Places { body, header });
            binding.secret_name = Some(secret_name.clone());
        }
        CredentialAuth::McpOauth { .. } => {
            return Err(Failure::Misused(
                "an OAuth credential has more than one secret: send them through the API".to_owned(),
            ));
        }
    }
    Ok(binding)
}

/// The perimeters of the workspace, or those of them whose keys were given: a server that lists a key of its own is passed over then.
async fn recipients(client: &Client, sealing: &Sealing) -> Result<Vec<Recipient>, Failure> {
    let listed = client.list("/v1/perimeters").await?;
    let mut recipients = Vec::new();
    for perimeter in &listed {
        let (id, key) =
            (perimeter["id"].as_str().unwrap_or_default(), perimeter["public_key"].as_str().unwrap_or_default());
        let wanted =
            sealing.public_keys.is_empty() || sealing.public_keys.iter().any(|given| given.eq_ignore_ascii_case(key));
        if wanted {
            let public_key = key.parse().or_misused("read a perimeter's public key")?;
            recipients.push(Recipient { perimeter_id: id.to_owned(), public_key });
        }
    }
    let found = |given: &&String| recipients.iter().any(|one| one.public_key.to_string().eq_ignore_ascii_case(given));
    if let Some(missing) = sealing.public_keys.iter().find(|given| !found(given)) {
        return Err(Failure::Misused(format!(
            "no perimeter with the key {missing} is registered: run `postern perimeter register`"
        )));
    }
    if sealing.public_keys.is_empty() {
        for one in &recipients {
            tracing::info!(perimeter = one.perimeter_id, key = %one.public_key, "sealed to; --public-key names those that you trust");
        }
    }
    Ok(recipients)
}

/// The workspace that is there from the start.
const OPERATORS: &str = "wrkspc_default";
