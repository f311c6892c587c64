//! A session's tool uses, in its sandbox: decided, recorded, run, and told. The sandbox is a stranger: what comes out of it is only shown on, and its end
//! is an outcome like another.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use postern_audit::{Decision, Durability, Kind, Record};
use postern_egress::client::Network;
use postern_policy::canonical::canonical_json;
use postern_policy::{AuditMode, Denial, MountAccess, Packages, Reason, Zone};
use postern_sandbox::{
    Access, BuildError, Control, ControlStatus, Ending, MemoryDirectory, Mount, Root, Sandbox, Spec, Trust,
};
use postern_tools::client::{CALL_DEADLINE, GRACE};
use postern_tools::{CallError, ToolClient, ToolOutcome};
use serde_json::Value;

use super::{Exit, Opened, Parts, deny, shadowed};
use crate::hands::{Hands, Outcome, Passage, SessionFacts, ToolCall, Way};
use crate::parcels::memories::{self, Store, Stores};
use crate::roster::Held;
use crate::session::chain;

/// A session's tool uses, in its sandbox. The sandbox is built at the first of them, and anew after one died.
pub(crate) struct SandboxHands {
    parts: Arc<Parts>,
    facts: SessionFacts,
    zone: Arc<Zone>,
    exit: Exit,
    /// A sandbox was asked for since the last one was destroyed: one may stand even where `inside` does not know of it.
    entered: bool,
    inside: Option<Inside>,
    /// Tells commands that the session is here.
    _held: Held,
}

struct Inside {
    tools: ToolClient,
    ending: Ending,
    controls: Vec<ControlStatus>,
}

impl Hands for SandboxHands {
    async fn run(&mut self, call: &ToolCall, ready: impl Future<Output = Result<(), Outcome>> + Send) -> Outcome {
        // All three come before anything runs, and none of them waits for another.
        let (recorded, ready, named) = tokio::join!(self.record_use(call), ready, self.name_use(call));
        let seq = recorded.as_ref().ok().copied();
        let mut outcome = match recorded.map(drop).and(ready).and(named) {
            Ok(()) => self.run_recorded(call).await,
            Err(outcome) => outcome,
        };
        self.append_refusals(&mut outcome).await;
        if let Some(seq) = seq {
            self.record_outcome(call, seq, &outcome).await;
        }
        outcome
    }

    async fn passes(&mut self, passage: Passage) -> Result<(), String> {
        let kind = match passage.way {
            Way::In => Kind::FilePut,
            Way::Out => Kind::FileTaken,
        };
        let mut record = self.record(kind, Decision::Allow, None);
        record.digests.extend(passage.digest.map(|digest| ("file".to_owned(), digest)));
        record.counts.insert("file_bytes".to_owned(), passage.bytes);
        record.outcome = Some(passage.path);
        match self.parts.audit.append(&record).await {
            Ok(_) => Ok(()),
            Err(error) => {
                tracing::error!(session = self.facts.session, %error, "a file is not on record and does not pass");
                Err("the perimeter's audit log takes no records; an operator repairs the log or its disk".to_owned())
            }
        }
    }

    fn withheld(&self, resource: &str) -> Option<&str> {
        self.exit.withheld.get(resource).map(String::as_str)
    }

    async fn close(mut self) {
        self.leave().await;
        let session = &self.facts.session;
        self.parts.close_exit(session).await;
        let record = self.record(Kind::SessionClosed, Decision::Info, None);
        if let Err(error) = self.parts.audit.append(&record).await {
            tracing::warn!(session, %error, "the session's end is not on record");
        }
    }
}

impl SandboxHands {
    /// Of a session that was opened; no sandbox stands yet.
    pub(super) fn new(parts: Arc<Parts>, facts: SessionFacts, opened: Opened) -> Self {
        let Opened { zone, exit, held } = opened;
        let (entered, inside) = (false, None);
        Self { parts, facts, zone, exit, entered, inside, _held: held }
    }

    /// Has a record written; without it the tool use is not run, and says why.
    async fn on_record(&self, record: &Record) -> Result<u64, Outcome> {
        if postern_danger::off!("audit-before-act") {
            return Ok(0);
        }
        match self.parts.audit.append(record).await {
            Ok(seq) => Ok(seq),
            Err(error) => {
                tracing::error!(session = self.facts.session, %error, "a tool use is not on record and is not run");
                self.parts.still_stands().await;
                let next_step = "an operator repairs the audit log or its disk; then try again";
                Err(not_run("audit_unavailable", next_step))
            }
        }
    }

    /// Decides and records; nothing runs before the record is written.
    async fn record_use(&self, call: &ToolCall) -> Result<u64, Outcome> {
        let permit = self.thawed().and_then(|()| {
            let zone = self.parts.zones.of(&self.facts.session, &self.zone);
            zone.tool_use(&postern_policy::ToolUse { name: call.name.clone() })
        });
        let mut record = self.record(Kind::ToolUse, Decision::Allow, Some(call));
        record.digests.insert("input".to_owned(), input_digest(call));
        if call.asked {
            let mut approval = self.record(Kind::Approval, Decision::Allow, Some(call));
            approval.digests.insert("input".to_owned(), input_digest(call));
            approval.outcome = Some("confirmed through the control plane".to_owned());
            record.caused_by = Some(self.on_record(&approval).await?);
        }
        match &permit {
            Ok(permit) => {
                record.rule = Some(permit.rule().to_owned());
                record.shadow = permit.shadow().map(shadowed);
            }
            Err(denial) => deny(&mut record, denial),
        }
        let silent = permit.is_err() && postern_danger::off!("refusals-recorded");
        let seq = if silent { 0 } else { self.on_record(&record).await? };
        permit.map(|_| seq).map_err(|denial| not_run(denial.reason.code(), &denial.next_step))
    }

    /// Whether the session may run something now.
    fn thawed(&self) -> Result<(), Denial> {
        let frozen = self.parts.roster.standing(&self.facts.session).frozen;
        if frozen { Err(Denial::new(Reason::SessionFrozen)) } else { Ok(()) }
    }

    /// Tells egress which tool use it is that sends from now on.
    async fn name_use(&self, call: &ToolCall) -> Result<(), Outcome> {
        let Err(error) = self.parts.egress.current_tool_use(&self.facts.session, Some(&call.id)).await else {
            return Ok(());
        };
        tracing::error!(session = self.facts.session, error = chain(&error), "egress does not know the session");
        self.parts.still_stands().await;
        Err(not_run("egress_unavailable", "an operator restarts the worker; then try again"))
    }

    /// Runs what is on record.
    async fn run_recorded(&mut self, call: &ToolCall) -> Outcome {
        if let Err(error) = self.enter().await {
            tracing::error!(session = self.facts.session, error = chain(&*error), "no sandbox");
            self.parts.still_stands().await;
            // What stands of it by now would be in the way of the next try.
            self.leave().await;
            return Outcome::failed(format!("[postern] not run reason=sandbox_unavailable next={error}"));
        }
        // Once more: while the sandbox was built it was not there to be paused.
        if let Err(denial) = self.thawed() {
            return not_run(denial.reason.code(), &denial.next_step);
        }
        let Some(inside) = &mut self.inside else {
            return not_run("sandbox_unavailable", "try again");
        };
        let over = self.parts.roster.worked(&self.facts.session, CALL_DEADLINE + GRACE);
        let answered = inside.tools.call_until(&call.id, &call.name, call.input.clone(), CALL_DEADLINE, over).await;
        match answered {
            Ok(ToolOutcome { is_error, content, .. }) => Outcome { is_error, content },
            Err(error) => self.broken(error).await,
        }
    }

    /// Builds the sandbox unless it stands.
    async fn enter(&mut self) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        if self.inside.is_some() {
            return Ok(());
        }
        let spec = self.spec().await?;
        // Said before the question: whoever gives up waiting for its answer still leaves.
        self.entered = true;
        let sandbox = self.parts.spawner.build(spec).await.inspect_err(|error| self.tell_build_error(error))?;
        let ending = sandbox.ending();
        if !sandbox.open.is_empty() {
            tracing::warn!(
                session = self.facts.session,
                open = ?sandbox.open,
                "a file system at or below what is lent to be read knows no maps of users: sockets in it stay within reach"
            );
        }
        self.record_sandbox(&sandbox).await?;
        let Sandbox { tools, network, controls, .. } = sandbox;
        self.parts.egress.attach(&self.facts.session, handed_over(network)).await?;
        self.inside = Some(Inside { tools: ToolClient::new(tools)?, ending, controls });
        Ok(())
    }

    /// What holds for the sandbox; nothing while there is none.
    pub(crate) fn controls(&self) -> Option<&[ControlStatus]> {
        self.inside.as_ref().map(|inside| &*inside.controls)
    }

    fn tell_build_error(&self, error: &BuildError) {
        tracing::error!(
            session = self.facts.session,
            step = error.step,
            cause = error.cause,
            fix = error.fix,
            "the sandbox was not built"
        );
    }

    async fn spec(&self) -> Result<Spec, Box<dyn std::error::Error + Send + Sync>> {
        let place = self.parts.places.of(&self.facts.session)?;
        let kernel_uid = self.parts.places.kernel_uid(&place)?;
        let workspace = place.workspace.clone();
        tokio::task::spawn_blocking(move || postern_sandbox::workspace::prepare(&workspace, kernel_uid)).await??;
        let limits = self.zone.sandbox();
        let packages = match limits.packages {
            Packages::None => None,
            Packages::Session => {
                postern_sandbox::workspace::prepare_packages(&place.packages, kernel_uid)?;
                Some(place.packages)
            }
        };
        postern_sandbox::workspace::prepare_outputs(&place.outputs, kernel_uid)?;
        let named = |controls: &Vec<postern_policy::Control>| {
            controls.iter().filter_map(|control| Control::parse(control.as_str())).collect()
        };
        Ok(Spec {
            session: self.facts.session.clone(),
            workspace: place.workspace,
            kernel_uid,
            memory_bytes: limits.memory_bytes.unwrap_or(MEMORY_BYTES),
            cpus: limits.cpus.unwrap_or(CPUS),
            processes: limits.processes.unwrap_or(PROCESSES),
            disk_bytes: limits.disk_bytes.unwrap_or(DISK_BYTES),
            system: system(&limits.system),
            packages,
            given: place.given.exists().then_some(place.given),
            outputs: Some(place.outputs),
            memories: memory_directories(&place.memory, memories::stores(&place.stores)?),
            mounts: limits.mounts.iter().map(mount).collect(),
            devices: limits.devices.clone(),
            kept: self.parts.zones.sources(),
            environment: self.exit.environment.clone(),
            ca_certificate_pem: self.exit.ca_certificate_pem.clone(),
            trust: if self.zone.passes_uninspected() { Trust::HostsToo } else { Trust::SessionAlone },
            require: limits.require.as_ref().map_or_else(|| self.parts.defaults.require.clone(), named),
        })
    }

    /// What a call means that brought no answer: the sandbox is taken down, and the next call gets a fresh one with the same files.
    async fn broken(&mut self, error: CallError) -> Outcome {
        let how = match (&error, self.inside.as_mut()) {
            (CallError::Gone | CallError::Channel(_), Some(inside)) => {
                how_it_ended(&mut inside.ending, self.zone.sandbox().memory_bytes).await
            }
            _ => String::new(),
        };
        tracing::warn!(session = self.facts.session, error = chain(&error), how, "a tool use lost its sandbox");
        self.parts.still_stands().await;
        self.leave().await;
        Outcome::failed(match error {
            CallError::TimedOut { .. } => error.to_string(),
            _ => format!(
                "{error}{how}. Its processes are gone and its files are kept; the next call starts in a fresh sandbox."
            ),
        })
    }

    async fn leave(&mut self) {
        self.inside = None;
        if !std::mem::take(&mut self.entered) {
            return;
        }
        if let Err(error) = self.parts.spawner.destroy(&self.facts.session).await {
            tracing::error!(session = self.facts.session, %error, "the sandbox could not be destroyed");
        }
        let record = self.record(Kind::SandboxDestroyed, Decision::Info, None);
        if let Err(error) = self.parts.audit.append(&record).await {
            tracing::warn!(session = self.facts.session, %error, "the sandbox's end is not on record");
        }
    }

    /// One line for each refusal that had no body in which to say so: the agent learns what to do next. What leaves later is of no tool use.
    async fn append_refusals(&self, outcome: &mut Outcome) {
        let (session, egress) = (&self.facts.session, &self.parts.egress);
        let (left, refusals) = tokio::join!(egress.current_tool_use(session, None), egress.refusals(session));
        if let Err(error) = left {
            tracing::warn!(session, %error, "egress still names the last tool use");
        }
        let refusals = match refusals {
            Ok(refusals) => refusals,
            Err(error) => return tracing::warn!(session = self.facts.session, %error, "refusals are not known"),
        };
        if !refusals.is_empty() {
            let lines: Vec<String> = refusals.iter().map(ToString::to_string).collect();
            outcome.append(&lines.join("\n"));
        }
    }

    async fn record_outcome(&self, call: &ToolCall, seq: u64, outcome: &Outcome) {
        let mut record = self.record(Kind::ToolOutcome, Decision::Info, Some(call));
        record.caused_by = Some(seq);
        record.outcome = Some(if outcome.is_error { "error" } else { "ok" }.to_owned());
        let bytes = serde_json::to_vec(&outcome.content).map_or(0, |content| content.len() as u64);
        record.counts.insert("result_bytes".to_owned(), bytes);
        if let Err(error) = self.parts.audit.append(&record).await {
            tracing::error!(session = self.facts.session, %error, "a tool use's outcome is not on record");
        }
    }

    async fn record_sandbox(&self, sandbox: &Sandbox) -> Result<(), postern_audit::AuditError> {
        let mut record = self.record(Kind::SandboxBuilt, Decision::Info, None);
        let states = sandbox
            .controls
            .iter()
            .map(|status| format!("{}={:?}", status.control.name(), status.state).to_lowercase());
        record.outcome = Some(states.collect::<Vec<_>>().join(" "));
        self.parts.audit.append(&record).await.map(drop)
    }

    fn record(&self, kind: Kind, decision: Decision, call: Option<&ToolCall>) -> Record {
        let mut record = Record::new(kind, decision);
        record.session = Some(self.facts.session.clone());
        record.agent = Some(self.facts.agent());
        record.zone = Some(self.zone.name().to_owned());
        record.durability = match self.parts.zones.of(&self.facts.session, &self.zone).audit() {
            AuditMode::Written => Durability::Written,
            AuditMode::Disk => Durability::Disk,
        };
        record.tool_use = call.map(|call| call.id.clone());
        if let Some(call) = call {
            record.digests.insert("policy".to_owned(), self.zone.digest().to_owned());
            record.counts.insert(format!("tool_{}", call.name), 1);
        }
        record
    }
}

fn not_run(reason: &str, next_step: &str) -> Outcome {
    Outcome::failed(format!("[postern] not run reason={reason} next={next_step}"))
}

/// A digest of the arguments: the record proves what was asked for without holding it.
fn input_digest(call: &ToolCall) -> String {
    let canonical = canonical_json(&Value::Object(call.input.clone()));
    let hex: String = digest(&SHA256, canonical.as_bytes()).as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

fn system(system: &postern_policy::System) -> Root {
    match system {
        postern_policy::System::Host { directories } => Root::Host(directories.clone()),
        postern_policy::System::Image(root) => Root::Image(root.clone()),
    }
}

fn mount(mount: &postern_policy::Mount) -> Mount {
    let access = match mount.access {
        MountAccess::Read => Access::Read,
        MountAccess::Write => Access::Write,
        MountAccess::Cache => Access::Cache,
    };
    Mount { host: mount.host.clone(), at: mount.at.clone(), access }
}

fn handed_over(network: postern_sandbox::Network) -> Network {
    Network {
        redirect_v4: Some(network.redirect_v4),
        redirect_v6: Some(network.redirect_v6),
        dns_udp_v4: Some(network.dns_udp_v4),
        dns_udp_v6: Some(network.dns_udp_v6),
        dns_tcp_v4: Some(network.dns_tcp_v4),
        dns_tcp_v6: Some(network.dns_tcp_v6),
        proxy: Some(network.proxy),
        refused_udp: network.refused_udp,
    }
}

/// How the sandbox ended, in words for the agent; what it wrote itself stays out of them.
async fn how_it_ended(ending: &mut Ending, memory_bytes: Option<u64>) -> String {
    let Ok(exit) = tokio::time::timeout(EXIT_PATIENCE, ending.wait()).await else { return String::new() };
    let memory = if exit.how.contains("signal 9") {
        format!(", most likely out of memory: its limit is {} MiB", memory_bytes.unwrap_or(MEMORY_BYTES) >> 20)
    } else {
        String::new()
    };
    format!(" ({}{memory})", exit.how)
}

fn memory_directories(root: &Path, stores: Stores) -> Vec<MemoryDirectory> {
    let directory = |store: Store| MemoryDirectory {
        directory: root.join(&store.directory),
        name: store.directory,
        access: match store.access {
            postern_model::memory::Access::ReadOnly => Access::Read,
            postern_model::memory::Access::ReadWrite => Access::Write,
        },
    };
    stores.into_values().map(directory).collect()
}

const MEMORY_BYTES: u64 = 2 << 30;
const CPUS: f64 = 1.0;
const PROCESSES: u32 = 256;
const DISK_BYTES: u64 = 4 << 30;
/// The spawner reports a death at once; the tool channel may notice it a moment earlier.
const EXIT_PATIENCE: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_digest_of_arguments_does_not_depend_on_their_order() {
        let call = |text: &str| ToolCall {
            id: "a".into(),
            name: "bash".into(),
            input: serde_json::from_str(text).expect("an object"),
            thread: None,
            asked: false,
        };
        assert_eq!(input_digest(&call(r#"{"a":1,"b":2}"#)), input_digest(&call(r#"{"b":2,"a":1}"#)));
        assert_ne!(input_digest(&call(r#"{"a":1}"#)), input_digest(&call(r#"{"a":2}"#)));
    }
}
