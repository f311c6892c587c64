//! What every test here stands on: a spawner of the probe, a sandbox with a workspace, and questions to its process 1.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use postern_exec::Channel;
use postern_exec::role::Starter;
use postern_sandbox::{BuildError, Control, LOWEST_KERNEL_UID, Root, Sandbox, Settings, Spawner, Spec, State, Trust};

use crate::probe::{Ask, Told};

/// A sandbox under test. Fields are dropped in order: the sandbox's end, then its files.
pub(crate) struct Stand {
    pub(crate) runtime: tokio::runtime::Runtime,
    pub(crate) spawner: Spawner,
    pub(crate) sandbox: Sandbox,
    pub(crate) channel: Channel,
    pub(crate) directory: tempfile::TempDir,
}

/// The probe beside this test where it was copied, else where cargo built it.
pub(crate) fn probe_program() -> PathBuf {
    let beside = std::env::current_exe().expect("has a path").with_file_name("postern-sandbox-probe");
    if beside.exists() { beside } else { env!("CARGO_BIN_EXE_postern-sandbox-probe").into() }
}

pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Whether the kernel holds something for this sandbox.
pub(crate) fn is_held(stand: &Stand, control: Control) -> bool {
    let status = stand.sandbox.controls.iter().find(|status| status.control == control);
    status.expect("each control has a status").state == State::Active
}

/// A kernel user that no other test of any process uses at the same time.
fn kernel_uid() -> Option<u32> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = (std::process::id() % 20_000) * 64 + NEXT.fetch_add(1, Ordering::Relaxed);
    is_root().then_some(LOWEST_KERNEL_UID + number)
}

/// A request with a prepared workspace below `directory`.
pub(crate) fn spec(directory: &Path, session: &str) -> Spec {
    let kernel_uid = kernel_uid();
    let workspace = directory.join(session);
    postern_sandbox::workspace::prepare(&workspace, kernel_uid).expect("prepares a workspace");
    Spec {
        session: session.to_owned(),
        workspace,
        kernel_uid,
        memory_bytes: 512 << 20,
        cpus: 2.0,
        processes: 128,
        disk_bytes: 64 << 20,
        system: Root::default(),
        packages: None,
        given: None,
        outputs: None,
        memories: Vec::new(),
        mounts: Vec::new(),
        devices: Vec::new(),
        kept: Vec::new(),
        environment: vec![("PLACEHOLDER".into(), "pstn-value".into())],
        ca_certificate_pem: String::new(),
        trust: Trust::SessionAlone,
        require: Vec::new(),
    }
}

pub(crate) fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("builds a runtime")
}

/// Puts a question to the process 1 behind a tool channel.
pub(crate) fn ask_of(channel: &Channel, ask: &Ask) -> Told {
    channel.send(ask, &[]).expect("process 1 listens");
    channel.receive(1 << 22).expect("process 1 answers").expect("process 1 lives").0
}

/// A shell script as model code.
pub(crate) fn script(text: &str) -> Ask {
    Ask::Run(vec!["/bin/bash".into(), "-c".into(), text.into()])
}

impl Stand {
    pub(crate) fn new() -> Self {
        Self::with(|_, _| {})
    }

    pub(crate) fn with(change: impl FnOnce(&mut Spec, &Path)) -> Self {
        Self::try_with(change).expect("the sandbox is built")
    }

    pub(crate) fn try_with(change: impl FnOnce(&mut Spec, &Path)) -> Result<Self, BuildError> {
        let runtime = runtime();
        let directory = tempfile::tempdir().expect("makes a directory");
        // As root the sandbox's user must be able to pass the directory above its workspace only on the host's side: it must not.
        let mut spec = spec(directory.path(), "sesn_test");
        change(&mut spec, directory.path());
        let settings = Settings { forbidden_mounts: Vec::new(), shared: directory.path().join("shared") };
        let spawner =
            runtime.block_on(Spawner::start(&Starter::itself(probe_program()), &settings)).expect("the spawner starts");
        let mut sandbox = runtime.block_on(spawner.build(spec))?;
        let (unused, _) = std::os::unix::net::UnixStream::pair().expect("pairs");
        let channel = Channel::new(std::mem::replace(&mut sandbox.tools, unused.into()));
        Ok(Self { runtime, spawner, sandbox, channel, directory })
    }

    /// Another sandbox of the same spawner, by its tool channel.
    pub(crate) fn another(&self, spec: Spec) -> Result<Channel, BuildError> {
        self.runtime.block_on(self.spawner.build(spec)).map(|sandbox| Channel::new(sandbox.tools))
    }

    /// Puts a question to process 1.
    pub(crate) fn ask(&self, ask: &Ask) -> Told {
        ask_of(&self.channel, ask)
    }

    /// Runs a shell script as model code.
    pub(crate) fn bash(&self, script: &str) -> Told {
        self.ask(&self::script(script))
    }

    /// Runs Python as model code.
    pub(crate) fn python(&self, script: &str) -> Told {
        self.ask(&Ask::Run(vec!["/usr/bin/python3".into(), "-c".into(), script.into()]))
    }
}
