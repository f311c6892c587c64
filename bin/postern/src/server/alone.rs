//! `postern server`: the control plane alone, where `[server]` and `[edge]` say: a supervisor of the server and its edge.

use std::os::fd::OwnedFd;
use std::process::ExitCode;

use postern_exec::WireBytes;
use postern_policy::deployment::Protection;
use serde_json::json;

use super::{DEFAULT_TUNNEL_DOMAIN, EdgeFacts, EdgePart, Plane, ServerConfiguration, ServerReady, WebConfiguration};
use crate::cli::ServerArguments;
use crate::config::{self, Configuration};
use crate::data::Data;
use crate::failure::{Failure, Or};
use crate::roles::keep_memory_private;
use crate::up::{Signals, listen_operator, model_key};
use crate::{asynchronously, edge, listening};

/// Serves until SIGTERM or Ctrl-C, then drains.
///
/// # Errors
/// Configuration, data directory, sockets.
pub(crate) fn run(arguments: &ServerArguments) -> Result<ExitCode, Failure> {
    keep_memory_private();
    let configuration = config::read(&arguments.place)?;
    let data = Data::open(&arguments.place.data_dir)?;
    let _held = data.hold()?;
    let prepared = prepare(&configuration, &data, arguments)?;
    let exe = postern_exec::program::own_executable().or_misused("find this executable")?;
    asynchronously(async {
        let mut signals = Signals::listen()?;
        let started = Plane::start(exe, prepared.server, prepared.sockets, prepared.edge);
        let (mut plane, ready) = tokio::select! {
            started = started => started?,
            // What was started ends with its channel.
            () = signals.next() => return Ok(ExitCode::SUCCESS),
        };
        announce(&ready, arguments, &data);
        tokio::select! {
            () = plane.keep() => (),
            () = signals.next() => (),
        }
        plane.stop().await.or_unreachable("end the server")?;
        Ok(ExitCode::SUCCESS)
    })
}

/// What both processes are started with.
struct Prepared {
    server: ServerConfiguration,
    sockets: Vec<OwnedFd>,
    edge: Option<EdgePart>,
}

fn prepare(configuration: &Configuration, data: &Data, arguments: &ServerArguments) -> Result<Prepared, Failure> {
    let section = &configuration.server;
    let listen =
        section.listen.ok_or_else(|| Failure::Misused("`[server] listen` must say where the API listens".into()))?;
    let tls = match &section.protection {
        Protection::Tls(files) => Some((files.cert.clone(), files.key.clone())),
        Protection::Loopback | Protection::BehindProxy => None,
    };
    let tcp = listening::tcp(listen)?;
    let operator = listen_operator(data)?;
    let address = tcp.local_addr().or_misused("read the listening address")?;
    let sockets = vec![OwnedFd::from(tcp), OwnedFd::from(operator)];
    let (facts, edge) = edge_section(configuration, data)?.unzip();
    let server = ServerConfiguration {
        listen: address,
        directory: data.control(),
        model_url: configuration.model.endpoint.to_string(),
        model_ca_file: configuration.model.ca_file.clone(),
        model_default: configuration.model.default.clone(),
        judge: configuration.model.judge.clone(),
        grader: configuration.model.grader.clone(),
        system_messages: configuration.model.system_messages.clone(),
        prices: configuration.model.prices.clone(),
        context: configuration.model.context,
        model_key: model_key(arguments.model_key_file.as_deref())?.map(|key| WireBytes::new(key.into_bytes())),
        new_keys: arguments.new_keys,
        new_environment_key: false,
        tls,
        edge: facts,
        mcp_addresses: section.mcp_addresses.clone(),
        webhook_addresses: section.webhook_addresses.clone(),
        web: WebConfiguration::read(&configuration.web)?,
        ca_file: section.ca_file.clone(),
        event_key_file: section.event_key_file.clone(),
    };
    Ok(Prepared { server, sockets, edge })
}

fn edge_section(configuration: &Configuration, data: &Data) -> Result<Option<(EdgeFacts, EdgePart)>, Failure> {
    let section = &configuration.edge;
    let Some(listen) = section.listen else { return Ok(None) };
    let (certificate, key) = match &section.tls {
        Some(files) => (files.cert.clone(), files.key.clone()),
        None if listen.ip().is_loopback() => {
            data.part_edge_from_control();
            edge::own_certificate(&data.edge())?;
            (data.edge().join("cert.pem"), data.edge().join("key.pem"))
        }
        None => {
            return Err(Failure::Misused(
                "`[edge] tls` must name a certificate and its key: connectors dial it from elsewhere".into(),
            ));
        }
    };
    let socket = listening::tcp(listen)?;
    let address = socket.local_addr().or_misused("read the edge's address")?;
    let domain = section.domain.clone().unwrap_or_else(|| DEFAULT_TUNNEL_DOMAIN.to_owned());
    Ok(Some((EdgeFacts { address, domain }, (edge::Configuration { certificate, key }, socket.into()))))
}

#[expect(clippy::print_stdout, reason = "the address and the keys are the command's result")]
fn announce(ready: &ServerReady, arguments: &ServerArguments, data: &Data) {
    if arguments.json {
        let line = json!({"base_url": ready.base_url, "api_key": ready.api_key, "environment_id": ready.environment_id,
            "environment_key": ready.environment_key, "edge_url": ready.edge_url, "identity_key": ready.identity_key,
            "data_dir": data.root()});
        println!("{line}");
        return;
    }
    let before = "(shown at the first start; --new-keys issues new ones)";
    println!("The control plane is ready.\n");
    println!("  API               {}", ready.base_url);
    println!("  API key           {}", ready.api_key.as_deref().unwrap_or(before));
    println!("  environment       {}", ready.environment_id);
    println!("  environment key   {}", ready.environment_key.as_deref().unwrap_or(before));
    println!(
        "  edge              {}",
        ready.edge_url.as_deref().unwrap_or("none: write [edge] listen to take tunnels")
    );
    println!("  data              {}", data.root().display());
}
