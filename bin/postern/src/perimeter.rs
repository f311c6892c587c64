//! `postern perimeter`: tells a server which perimeters credentials are sealed to. The private key never leaves custody.

use postern_custody::PerimeterPublicKey;
use postern_custody::approved::Approved;
use serde_json::{Value, json};

use crate::cli::{PerimeterVerb, Place};
use crate::client::Client;
use crate::config;
use crate::failure::{Failure, Or};

/// Runs the verb.
///
/// # Errors
/// The server is not reachable or refuses; the data directory has no key.
#[expect(clippy::print_stdout, reason = "what was asked for is the command's result")]
pub(crate) async fn run(verb: &PerimeterVerb) -> Result<(), Failure> {
    match verb {
        PerimeterVerb::Key { place } => println!("{}", own_public_key(place)?),
        PerimeterVerb::Register { name, environment, tunnel, public_key, server } => {
            let key = match public_key {
                Some(key) => key.clone(),
                None => own_public_key(&server.place)?,
            };
            let name = name.clone().unwrap_or_else(machine);
            let perimeter =
                register(&Client::of(server)?, &name, &key, environment.as_deref(), tunnel.as_deref()).await?;
            println!("{}  {name}  {key}", perimeter["id"].as_str().unwrap_or_default());
        }
        PerimeterVerb::Approve { public_key, revoke, place } => approve(public_key, *revoke, place)?,
        PerimeterVerb::Rewrap { id, server } => {
            let done = Client::of(server)?.post(&format!("/v1/perimeters/{id}/rewrap"), &Value::Null).await?;
            println!(
                "{} values open there now; {} stay closed, for no perimeter that is connected opens them",
                done["rewrapped"], done["left"]
            );
        }
        PerimeterVerb::List { server } => {
            for perimeter in Client::of(server)?.list("/v1/perimeters").await? {
                let field = |name: &str| perimeter[name].as_str().unwrap_or("-").to_owned();
                println!("{}  {}  {}", field("id"), field("name"), field("public_key"));
            }
        }
        PerimeterVerb::Rm { id, server } => {
            Client::of(server)?.delete(&format!("/v1/perimeters/{id}")).await?;
            println!("{id} is removed: nothing is sealed to it any more; what was sealed stays readable there");
        }
    }
    Ok(())
}

/// Registers a key unless it is registered already.
///
/// # Errors
/// The server is not reachable or refuses.
pub(crate) async fn register(
    client: &Client,
    name: &str,
    public_key: &str,
    environment: Option<&str>,
    tunnel: Option<&str>,
) -> Result<Value, Failure> {
    let known = client.list("/v1/perimeters").await?;
    if let Some(perimeter) = known.into_iter().find(|perimeter| perimeter["public_key"].as_str() == Some(public_key)) {
        return Ok(perimeter);
    }
    let mut body = json!({"name": name, "public_key": public_key});
    if let Some(environment) = environment {
        body["environment_id"] = json!(environment);
    }
    if let Some(tunnel) = tunnel {
        body["tunnel_id"] = json!(tunnel);
    }
    client.post("/v1/perimeters", &body).await
}

#[expect(clippy::print_stdout, reason = "what was asked for is the command's result")]
fn approve(public_key: &str, revoke: bool, place: &Place) -> Result<(), Failure> {
    let key: PerimeterPublicKey = public_key.parse().or_misused("read the public key")?;
    let approved = Approved::at(&config::custody_of(place)?);
    if revoke {
        let was = approved.remove(&key).or_misused("change the list")?;
        println!("{key} {}", if was { "is not approved any more" } else { "was not approved" });
    } else {
        approved.add(&key).or_misused("change the list")?;
        println!("{key} is approved: run `postern perimeter rewrap` with its id on the server's machine");
    }
    Ok(())
}

fn own_public_key(place: &Place) -> Result<String, Failure> {
    let store = postern_custody::store::Store::open(&config::custody_of(place)?).or_misused("open custody's store")?;
    Ok(store.perimeter_public_key().or_misused("read the perimeter's key")?.to_string())
}

fn machine() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secrets;

    #[test]
    fn commands_change_the_store_that_the_configuration_names_and_no_other() {
        let directory = tempfile::tempdir().unwrap();
        let (store, data_dir) = (directory.path().join("store"), directory.path().join("data"));
        let config = directory.path().join("postern.toml");
        std::fs::write(&config, "config = 1\n[custody]\ndir = \"store\"\n").unwrap();
        let place = Place { config: Some(config), data_dir: data_dir.clone() };

        let key = own_public_key(&place).unwrap();
        let configured = postern_custody::store::Store::open(&store).unwrap();
        assert_eq!(key, configured.perimeter_public_key().unwrap().to_string());
        secrets::store(&place).unwrap().set("name", b"a-Value-l0ng-enough".to_vec(), false).unwrap();
        assert_eq!(configured.list().unwrap().len(), 1);
        approve(&key, false, &place).unwrap();
        assert_eq!(Approved::at(&store).keys().unwrap(), [key.parse().unwrap()]);
        approve(&key, true, &place).unwrap();
        assert_eq!(Approved::at(&store).keys().unwrap(), []);
        assert!(!data_dir.join("perimeter/custody").exists(), "nothing was made where no role looks");
    }
}
