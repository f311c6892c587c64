//! `postern tunnel`: makes tunnels, shows them, tries the whole path. Keys of a tunnel's CA are made where the command
//! runs and stay there: the server gets the certificate alone.

mod files;
mod show;

use std::path::Path;

use serde_json::{Value, json};

use crate::cli::TunnelVerb;
use crate::client::Client;
use crate::data::Data;
use crate::failure::{Failure, Or};
pub(crate) use files::{Files, Leaf};

/// Runs the verb.
///
/// # Errors
/// The server is not reachable or refuses; a check did not hold.
#[expect(clippy::print_stdout, reason = "what was asked for is the command's result")]
pub(crate) async fn run(verb: &TunnelVerb) -> Result<(), Failure> {
    match verb {
        TunnelVerb::Create { name, out, server } => {
            let files = create(&Client::of(server)?, out, name.as_deref()).await?;
            let (id, domain, out) = (files.id(), files.domain(), out.display());
            println!("{id}  {domain}\n{out} holds its token, CA and certificate. On the machine that serves it:\n");
            println!(
                "  [gateway]\n  server = \"https://SERVER\"\n  edge = \"https://EDGE\"\n  tunnel = \"{id}\"\n  tunnel_token_file = \"{out}/token\"\n  tls_dir = \"{out}\"\n"
            );
            println!("then `postern gateway`.");
        }
        TunnelVerb::List { server } => {
            for tunnel in Client::of(server)?.list("/v1/tunnels?limit=1000").await? {
                println!("{}", show::line(&tunnel));
            }
        }
        TunnelVerb::Status { tunnel, json, server } => status(&Client::of(server)?, tunnel.as_deref(), *json).await?,
        TunnelVerb::Probe { route, tunnel, json, server } => {
            return probe(&Client::of(server)?, route, tunnel.as_deref(), *json).await;
        }
        TunnelVerb::Revoke { tunnel, server } => {
            Client::of(server)?.post(&format!("/v1/tunnels/{tunnel}/revoke_token"), &json!({})).await?;
            println!(
                "{tunnel}: the token is revoked and every connection ended; `postern tunnel token --rotate` issues the next one"
            );
        }
        TunnelVerb::Token { tunnel, out, rotate, server } => {
            let client = Client::of(server)?;
            let verb = if *rotate { "rotate_token" } else { "reveal_token" };
            let answer = client.post(&format!("/v1/tunnels/{tunnel}/{verb}"), &json!({})).await?;
            write_token(out, &answer)?;
            println!("{} holds the token of {tunnel}", out.display());
        }
    }
    Ok(())
}

/// Makes a tunnel with a CA and a certificate of its own in a directory that has none yet.
///
/// # Errors
/// The directory holds one already or cannot be written; the server refuses.
pub(crate) async fn create(client: &Client, directory: &Path, name: Option<&str>) -> Result<Files, Failure> {
    Files::expect_none(directory)?;
    let tunnel = client.post("/v1/tunnels", &json!({"display_name": name})).await?;
    let (id, domain) = (text(&tunnel, "id")?, text(&tunnel, "domain")?);
    let files = Files::make(directory, id, domain)?;
    let certificate = json!({"ca_certificate_pem": files.ca_certificate()?});
    client.post(&format!("/v1/tunnels/{id}/certificates"), &certificate).await?;
    let token = client.post(&format!("/v1/tunnels/{id}/reveal_token"), &json!({})).await?;
    write_token(&files.token(), &token)?;
    files.keep()?;
    Ok(files)
}

/// The tunnel of this directory, made at the first call; its token is read again from the server each time.
///
/// # Errors
/// As [`create`]; the tunnel was archived.
pub(crate) async fn ensure(client: &Client, directory: &Path, name: &str) -> Result<Files, Failure> {
    let Some(files) = Files::find(directory)? else { return create(client, directory, Some(name)).await };
    let id = files.id();
    let tunnel = client.get(&format!("/v1/tunnels/{id}")).await?;
    if !tunnel["archived_at"].is_null() {
        let place = directory.display();
        return Err(Failure::Misused(format!(
            "tunnel {id} was archived; remove {place} to have another one made, or start with --no-gateway"
        )));
    }
    match client.post(&format!("/v1/tunnels/{id}/reveal_token"), &json!({})).await {
        Ok(token) => write_token(&files.token(), &token)?,
        // The connector is refused then, and says so; everything else goes on.
        Err(failure) => {
            tracing::warn!(%failure, "the tunnel's token was revoked; `postern tunnel token --rotate` issues the next one")
        }
    }
    Ok(files)
}

fn write_token(path: &Path, answer: &Value) -> Result<(), Failure> {
    Data::write_private(path, text(answer, "tunnel_token")?).or_misused(&format!("write {}", path.display()))
}

fn text<'a>(answer: &'a Value, key: &str) -> Result<&'a str, Failure> {
    answer[key].as_str().ok_or_else(|| Failure::Unreachable(format!("the server's answer has no {key}")))
}

#[expect(clippy::print_stdout, reason = "what was asked for is the command's result")]
async fn status(client: &Client, tunnel: Option<&str>, as_json: bool) -> Result<(), Failure> {
    let tunnels = match tunnel {
        Some(id) => vec![client.get(&format!("/v1/tunnels/{id}")).await?],
        None => client.list("/v1/tunnels?limit=1000").await?,
    };
    if tunnels.is_empty() {
        println!("there is no tunnel; `postern tunnel create --out DIR` makes one, `postern up` makes its own");
    }
    // Of the gateways only what they say themselves is known, over their control streams.
    let perimeters = client.get("/v1/perimeter/status").await?;
    for tunnel in tunnels {
        let id = text(&tunnel, "id")?;
        let mut status = client.get(&format!("/v1/tunnels/{id}/status")).await?;
        status["gateways"] = gateways_of(id, &perimeters);
        if as_json {
            println!("{}", json!({"tunnel": tunnel, "status": status}));
        } else {
            print!("{}", show::status(&tunnel, &status));
        }
    }
    Ok(())
}

/// The tunnel's gateways as they describe themselves.
fn gateways_of(tunnel: &str, perimeters: &Value) -> Value {
    let all = perimeters["data"].as_array().map_or(&[][..], Vec::as_slice);
    all.iter().filter(|process| process["tunnel_id"].as_str() == Some(tunnel)).cloned().collect()
}

#[expect(clippy::print_stdout, reason = "what was asked for is the command's result")]
async fn probe(client: &Client, route: &str, tunnel: Option<&str>, as_json: bool) -> Result<(), Failure> {
    let id = match tunnel {
        Some(id) => id.to_owned(),
        None => only_one(client).await?,
    };
    let report = client.post(&format!("/v1/tunnels/{id}/probe"), &json!({"route": route})).await?;
    if as_json {
        println!("{report}");
    } else {
        print!("{}", show::probe(route, &report));
    }
    match report["failure"].as_object() {
        None => Ok(()),
        Some(_) => Err(Failure::NotHeld(format!("the path to {route} is not whole"))),
    }
}

async fn only_one(client: &Client) -> Result<String, Failure> {
    let tunnels = client.list("/v1/tunnels?limit=1000").await?;
    match tunnels.as_slice() {
        [one] => Ok(text(one, "id")?.to_owned()),
        [] => Err(Failure::Misused("there is no tunnel; `postern tunnel create --out DIR` makes one".into())),
        more => Err(Failure::Misused(format!("there are {} tunnels; name one with --tunnel", more.len()))),
    }
}
