//! Our side: the spawner, as the worker asks it.

use std::path::Path;
use std::time::Instant;

use postern_sandbox::{LOWEST_KERNEL_UID, Root, Spawner, Spec, Trust};
use postern_tools::ToolClient;
use postern_tools::client::CALL_DEADLINE;
use serde_json::{Map, Value};

use crate::{Outcome, milliseconds};

/// Milliseconds from the question to the first command's result. Making the workspace before and destroying after are not counted.
pub(crate) async fn start(spawner: &Spawner, directory: &Path, round: usize) -> Outcome<f64> {
    let spec = spec(directory, round)?;
    let session = spec.session.clone();
    let start = Instant::now();
    let sandbox = spawner.build(spec).await?;
    first_command(&mut ToolClient::new(sandbox.tools)?).await?;
    let passed = milliseconds(start);
    spawner.destroy(&session).await?;
    Ok(passed)
}

/// Runs `true`, which starts the session's shell.
pub(crate) async fn first_command(tools: &mut ToolClient) -> Outcome {
    let input = Map::from_iter([("command".to_owned(), Value::from("true"))]);
    let outcome = tools.call("first", "bash", input, CALL_DEADLINE).await?;
    if outcome.is_error { Err(format!("the command failed: {:?}", outcome.content).into()) } else { Ok(()) }
}

/// A sandbox as the worker asks for it: with variables and a certificate authority, all limits set.
pub(crate) fn spec(directory: &Path, number: usize) -> Outcome<Spec> {
    let is_root = rustix::process::geteuid().is_root();
    let kernel_uid = if is_root { Some(LOWEST_KERNEL_UID + u32::try_from(number)?) } else { None };
    let session = format!("sesn_{number}");
    let workspace = directory.join(&session);
    postern_sandbox::workspace::prepare(&workspace, kernel_uid)?;
    Ok(Spec {
        session,
        workspace,
        kernel_uid,
        memory_bytes: 2 << 30,
        cpus: 2.0,
        processes: 512,
        disk_bytes: 4 << 30,
        system: Root::default(),
        packages: None,
        given: None,
        outputs: None,
        memories: Vec::new(),
        mounts: Vec::new(),
        devices: Vec::new(),
        kept: Vec::new(),
        environment: vec![("LEDGER_API_KEY".to_owned(), "pstn-0123456789abcdef0123456789ab".to_owned())],
        ca_certificate_pem: format!("-----BEGIN CERTIFICATE-----\n{}-----END CERTIFICATE-----\n", AUTHORITY.repeat(12)),
        trust: Trust::SessionAlone,
        require: Vec::new(),
    })
}

/// A line of a certificate: nobody reads it here, its length is what counts.
const AUTHORITY: &str = "MIIBszCCAVmgAwIBAgIUQGdlbmVyYXRlZCBmb3IgYSBtZWFzdXJlbWVudCBvbmx5\n";
