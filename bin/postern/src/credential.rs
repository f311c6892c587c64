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
            let binding = bound(workspace(server), vault, id.as_str(), &auth)?;
            let sealed = sealed(&client, sealing, &binding, || value(vault)).await?;
            auth["sealed"] = json!(sealed);
            let mut body = json!({"id": id, "auth": auth});
            if let Some(name) = name {
                body["display_name"] = json!(name);
            }
            client.post(&format!("/v1/vaults/{vault}/credentials"), &body).await?;
            println!("{id}");
        }
        CredentialVerb::Rotate { id, vault, kind, sealing, server } => {
            let client = Client::of(server)?;
            let path = format!("/v1/vaults/{vault}/credentials/{id}");
            let auth = client.get(&path).await?["auth"].take();
            let binding = |auth: &Value| bound(workspace(server), vault, id, auth);
            let said = auth_said(kind).as_ref().map(binding).transpose()?;
            let binding = agreed(said.as_ref(), binding(&auth)?, sealing)?;
            let sealed = sealed(&client, sealing, &binding, || value(id)).await?;
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

/// The same of flags that may be left out.
fn auth_said(kind: &CredentialKind) -> Option<Value> {
    (kind.variable.is_some() || kind.bearer.is_some()).then(|| auth_of(kind))
}

async fn sealed(
    client: &Client,
    sealing: &Sealing,
    binding: &Binding,
    value: impl FnOnce() -> Result<SecretBytes, Failure>,
) -> Result<Sealed, Failure> {
    let recipients = recipients(client, sealing).await?;
    seal(&value()?, binding, &recipients).map_err(|error| Failure::Misused(error.to_string()))
}

/// What a new value is sealed to. The server's word for where the former one may go is not taken from whoever names keys because the server is not trusted.
fn agreed(said: Option<&Binding>, shown: Binding, sealing: &Sealing) -> Result<Binding, Failure> {
    let shows = in_words(&shown);
    match said {
        Some(said) if in_order(said) == in_order(&shown) => Ok(shown),
        Some(said) => Err(Failure::Misused(format!(
            "nothing is sealed: you say {}, and the server shows {shows}. Next step: find out who changed it; where it was its owner, say that, or create a new credential",
            in_words(said)
        ))),
        None if sealing.public_keys.is_empty() => {
            tracing::info!(
                binding = shows,
                "sealed to what the server shows; --variable or --bearer says what you trust"
            );
            Ok(shown)
        }
        None => Err(Failure::Misused(format!(
            "--public-key is for a server that is not trusted, and where the value may go would be its word: {shows}. Next step: say --variable with --host and --place, or --bearer, as the credential was created"
        ))),
    }
}

/// Hosts are a set.
fn in_order(binding: &Binding) -> Binding {
    let mut binding = binding.clone();
    binding.hosts.sort_unstable();
    binding.hosts.dedup();
    binding
}

/// As the flags have it.
fn in_words(binding: &Binding) -> String {
    if let Some(url) = &binding.mcp_url {
        return format!("--bearer {url}");
    }
    let hosts = if binding.hosts == ["*"] { "any host".to_owned() } else { binding.hosts.join(", ") };
    let places = binding.injection.map(|Places { body, header }| {
        [("header", header), ("body", body)]
            .into_iter()
            .filter(|(_, may)| *may)
            .map(|(name, _)| name)
            .collect::<Vec<_>>()
    });
    let name = binding.secret_name.as_deref().unwrap_or_default();
    format!("--variable {name} for {hosts} in {}", places.unwrap_or_default().join(" and "))
}

/// What the value is sealed to: the very fields that the server will show and custody will check.
fn bound(workspace: &str, vault: &str, id: &str, auth: &Value) -> Result<Binding, Failure> {
    let auth: CredentialAuth = serde_json::from_value(auth.clone())
        .map_err(|_| Failure::Misused("this kind of credential is not sealed here".to_owned()))?;
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
            let url = postern_policy::normalise_mcp_url(&mcp_server_url);
            binding.mcp_url = Some(url.map_err(|why| Failure::Misused(format!("--bearer: {why}")))?);
        }
        CredentialAuth::EnvironmentVariable { secret_name, networking, injection_location } => {
            let InjectionLocation { header, body } = injection_location;
            binding.hosts = networking.hosts();
            binding.injection = Some(Places { body, header });
            binding.secret_name = Some(secret_name);
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

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(variable: Option<&str>, hosts: &[&str], places: &[RequestPlace]) -> CredentialKind {
        CredentialKind {
            variable: variable.map(str::to_owned),
            bearer: None,
            hosts: hosts.iter().map(|host| (*host).to_owned()).collect(),
            places: places.to_vec(),
        }
    }

    fn binding(auth: &Value) -> Binding {
        bound(OPERATORS, "vlt_1", "vcrd_1", auth).unwrap()
    }

    fn shown(hosts: &[&str]) -> Binding {
        let networking = json!({"type": "limited", "allowed_hosts": hosts});
        let places = json!({"header": true, "body": false});
        binding(
            &json!({"type": "environment_variable", "secret_name": "CRM_TOKEN", "networking": networking, "injection_location": places}),
        )
    }

    fn said(kind: &CredentialKind) -> Option<Binding> {
        auth_said(kind).as_ref().map(binding)
    }

    #[test]
    fn a_new_value_is_sealed_to_what_was_said_and_not_to_what_the_server_made_of_it() {
        let keys = Sealing { public_keys: vec!["ab".repeat(32)] };
        let header = [RequestPlace::Header];
        let trusted = said(&kind(Some("CRM_TOKEN"), &["b.example", "A.example"], &header));
        let same = shown(&["a.example", "b.example"]);
        assert_eq!(agreed(trusted.as_ref(), same.clone(), &keys).unwrap(), same);

        let any = binding(&auth_of(&kind(Some("CRM_TOKEN"), &[], &header)));
        let bearer = binding(&json!({"type": "static_bearer", "mcp_server_url": "https://b.example/mcp"}));
        let both = binding(&auth_of(&kind(Some("CRM_TOKEN"), &["b.example", "a.example"], &[])));
        let renamed = binding(&auth_of(&kind(Some("OTHER"), &["b.example", "a.example"], &header)));
        let wider = shown(&["a.example", "b.example", "evil.example"]);
        for another in [wider, any, bearer, both, renamed, shown(&["a.example"])] {
            for sealing in [&keys, &Sealing { public_keys: Vec::new() }] {
                let refused = agreed(trusted.as_ref(), another.clone(), sealing).unwrap_err();
                let Failure::Misused(text) = refused else { panic!("{refused}") };
                assert!(text.contains("--variable CRM_TOKEN for b.example, a.example in header, and"), "{text}");
                assert!(text.contains(&format!("shows {}. Next step", in_words(&another))), "{text}");
            }
        }
    }

    #[test]
    fn whoever_names_keys_says_where_the_value_may_go_too() {
        let named = Sealing { public_keys: vec!["ab".repeat(32)] };
        let nothing = said(&kind(None, &[], &[]));
        assert_eq!(nothing, None);
        let refused = agreed(None, shown(&["evil.example"]), &named).unwrap_err();
        assert!(
            matches!(&refused, Failure::Misused(text) if text.contains("evil.example") && text.contains("Next step")),
            "{refused}"
        );
        let trusting = Sealing { public_keys: Vec::new() };
        assert_eq!(agreed(None, shown(&["a.example"]), &trusting).unwrap(), shown(&["a.example"]));
    }
}
