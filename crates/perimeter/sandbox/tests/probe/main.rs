//! For the boundary tests alone: the spawner role, and in the tool server's place a process 1 that runs what a test sends it and tells what came out.

use std::fs::File;
use std::io::Read;
use std::process::ExitCode;
use std::time::Duration;

use postern_exec::Channel;
use postern_sandbox::command::{Command, Ended};
use serde::{Deserialize, Serialize};

/// What a test asks of process 1.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Ask {
    /// Run a command as the tool server would, up to 20 s.
    Run(Vec<String>),
    /// Read a file as process 1 itself.
    Read(String),
    /// End.
    Exit(i32, String),
}

/// What came out.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Told {
    /// The output, or the file, or the error.
    pub(crate) text: String,
    /// The exit code, or minus the signal's number.
    pub(crate) code: i32,
}

fn main() -> ExitCode {
    let mut arguments = std::env::args();
    match (arguments.next().as_deref(), arguments.next().as_deref()) {
        (Some(postern_sandbox::TOOLS_NAME), _) => serve(),
        (_, Some("spawner")) => postern_sandbox::spawner_main(),
        (_, Some("check")) => check(),
        (_, Some("check-without")) => {
            forbid(&arguments.collect::<Vec<_>>());
            check()
        }
        _ => ExitCode::from(2),
    }
}

/// Prints what `worker --check` knows, as a list of name, state, cause and fix.
fn check() -> ExitCode {
    let lines: Vec<_> = postern_sandbox::check()
        .into_iter()
        .map(|status| {
            [status.control.name().to_owned(), format!("{:?}", status.state).to_lowercase(), status.cause, status.fix]
        })
        .collect();
    #[expect(clippy::print_stdout, reason = "the list is what the test reads")]
    {
        println!("{}", serde_json::to_string(&lines).expect("is plain"));
    }
    ExitCode::SUCCESS
}

/// Puts a filter around this process, as a container or a service manager would.
fn forbid(what: &[String]) {
    let rules: Vec<_> = what
        .iter()
        .map(|what| match what.as_str() {
            "clone-namespaces" => serde_json::json!({"syscall": "clone", "args": [
                {"index": 0, "type": "dword", "op": {"masked_eq": 0x1000_0000}, "val": 0x1000_0000}]}),
            "netfilter" => serde_json::json!({"syscall": "socket", "args": [
                {"index": 0, "type": "dword", "op": "eq", "val": 16}, {"index": 2, "type": "dword", "op": "eq", "val": 12}]}),
            call => serde_json::json!({"syscall": call}),
        })
        .collect();
    let filter =
        serde_json::json!({"filter": {"mismatch_action": "allow", "match_action": {"errno": 1}, "filter": rules}});
    let arch = std::env::consts::ARCH.try_into().expect("an architecture with filters");
    let programs = seccompiler::compile_from_json(filter.to_string().as_bytes(), arch).expect("compiles");
    seccompiler::apply_filter(&programs["filter"]).expect("installs");
}

fn serve() -> ExitCode {
    let Some(socket) = postern_sandbox::tool_channel() else { return ExitCode::from(postern_sandbox::NO_CHANNEL) };
    let channel = Channel::new(socket);
    while let Ok(Some((ask, _))) = channel.receive::<Ask>(1 << 20) {
        let told = match ask {
            Ask::Run(words) => run(&words),
            Ask::Read(path) => read(&path),
            Ask::Exit(code, words) => {
                eprint!("{words}");
                std::process::exit(code)
            }
        };
        if channel.send(&told, &[]).is_err() {
            break;
        }
    }
    ExitCode::SUCCESS
}

fn read(path: &str) -> Told {
    match std::fs::read(path) {
        Ok(bytes) => Told { text: String::from_utf8_lossy(&bytes).into_owned(), code: 0 },
        Err(error) => Told { text: error.to_string(), code: error.raw_os_error().unwrap_or(-1) },
    }
}

fn run(words: &[String]) -> Told {
    let command = words[1..].iter().fold(Command::new(&words[0]), Command::argument);
    let child = match command.start() {
        Ok(child) => child,
        Err(error) => return Told { text: format!("{error}: {:?}", std::error::Error::source(&error)), code: -1 },
    };
    let stdout = child.stdout.try_clone().expect("clones a pipe");
    let reader = std::thread::spawn(move || {
        let mut text = Vec::new();
        // What a killed command leaves open ends with the sandbox: take what there is.
        let _ended = File::from(stdout).take(1 << 20).read_to_end(&mut text);
        String::from_utf8_lossy(&text).into_owned()
    });
    let ended = child.wait_for(Duration::from_secs(20));
    if ended.is_none() {
        child.kill();
    }
    let code = match ended {
        Some(Ended::Code(code)) => code,
        Some(Ended::Signal(signal)) => -signal,
        None => -1000,
    };
    Told { text: reader.join().expect("the reader does not panic"), code }
}
