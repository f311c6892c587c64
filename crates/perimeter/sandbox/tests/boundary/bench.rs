//! Not a check: figures. Run by hand with `cargo nextest run -p postern-sandbox --run-ignored only start_to_first_command --no-capture`.

use std::process::Command;
use std::time::{Duration, Instant};

use postern_exec::Channel;
use postern_sandbox::{Settings, Spawner};

use crate::probe::{Ask, Told};
use crate::stand::{probe_program, runtime, spec};

const ROUNDS: usize = 100;

#[test]
#[ignore = "a measurement, not a check"]
fn start_to_first_command() {
    let runtime = runtime();
    let directory = tempfile::tempdir().expect("makes a directory");
    let spawner =
        runtime.block_on(Spawner::start_with(&probe_program(), &Settings::default())).expect("the spawner starts");
    let (mut ours, mut built, mut again, mut theirs, mut plain) =
        (Vec::new(), Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        let session = format!("bench{round}");
        let spec = spec(directory.path(), &session);
        let start = Instant::now();
        let sandbox = runtime.block_on(spawner.build(spec)).expect("builds");
        built.push(start.elapsed());
        let channel = Channel::new(sandbox.tools);
        channel.send(&Ask::Run(["/bin/bash", "-c", "true"].map(str::to_owned).to_vec()), &[]).expect("sends");
        let (told, _) = channel.receive::<Told>(4096).expect("answers").expect("lives");
        ours.push(start.elapsed());
        assert_eq!(told.code, 0);
        let second = Instant::now();
        channel.send(&Ask::Run(["/bin/bash", "-c", "true"].map(str::to_owned).to_vec()), &[]).expect("sends");
        channel.receive::<Told>(4096).expect("answers").expect("lives");
        again.push(second.elapsed());
        runtime.block_on(spawner.destroy(&session)).expect("destroys");
        theirs.push(time(
            "bwrap",
            &[
                "--unshare-all",
                "--ro-bind",
                "/usr",
                "/usr",
                "--symlink",
                "usr/bin",
                "/bin",
                "--symlink",
                "usr/lib",
                "/lib",
                "--symlink",
                "usr/lib64",
                "/lib64",
                "--proc",
                "/proc",
                "--dev",
                "/dev",
                "--tmpfs",
                "/tmp",
                "/bin/bash",
                "-c",
                "true",
            ],
        ));
        plain.push(time("/bin/bash", &["-c", "true"]));
    }
    for (name, mut times) in [
        ("ours, built", built),
        ("ours, first command done", ours),
        ("ours, second command", again),
        ("bwrap --unshare-all", theirs),
        ("bash alone", plain),
    ] {
        times.sort_unstable();
        let at = |share: usize| times[(times.len() * share / 100).min(times.len() - 1)].as_secs_f64() * 1000.0;
        eprintln!("{name:26} p50 {:6.2} p90 {:6.2} p99 {:6.2} ms", at(50), at(90), at(99));
    }
}

#[expect(clippy::disallowed_methods, reason = "a peer to compare with, started by a test")]
fn time(program: &str, arguments: &[&str]) -> Duration {
    let start = Instant::now();
    match Command::new(program).args(arguments).status() {
        Ok(status) if status.success() => start.elapsed(),
        _ => Duration::ZERO,
    }
}
