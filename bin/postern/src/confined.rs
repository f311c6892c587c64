//! `postern confined ROLE ATTEMPT [ARGUMENT]`: takes a role's confinement upon itself, as the role would with this data directory, tries one thing that the
//! role must not be able to do, and says what came of it. For probes: it attacks nothing but its own chains.
//!
//! ROLE is `server`, `edge`, `worker`, `gateway`, `connector`, `egress`, `custody`, `audit`, `starter` (which is also the spawner's), `settled` (a worker's
//! starter that has started everything), or `none` for the same attempt without confinement, which shows that the attempt is one.
//!
//! | attempt | argument | what is tried |
//! |---|---|---|
//! | `read` | path | open a file and read of it, or list a directory |
//! | `write` | directory | make a file there, and remove it |
//! | `append` | file | open it for writing |
//! | `program` | path | start it and wait for it |
//! | `connect` | address:port | a TCP connection |
//! | `listen` | address:port | listen for TCP |
//! | `datagram`, `raw`, `packet`, `netfilter` | | a socket of that kind |
//! | `peek` | pid | open the memory of a process |
//! | `stop` | pid | whether that process could be signalled |
//! | `status` | | nothing: only how far the process is confined |
//! | `execve`, `ptrace`, ... | | the calls of `postern_sandbox::attempt` |
//!
//! One line of JSON comes out: `{"role", "attempt", "argument", "confinement", "outcome", "error"}`. `outcome` is `done`, `refused` (EPERM, EACCES, ENOSYS or
//! EAFNOSUPPORT) or `failed` (anything else, such as a file that is not there); `error` is the system's name for it or null. The exit code is 0 whenever the
//! attempt was made, whatever came of it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use postern_confine::{Confinement, Reach, Role};
use postern_exec::program::{Program, ProgramError};
use postern_exec::role::STARTER;
use postern_sandbox::attempt;
use rustix::io::Errno;
use rustix::net::{AddressFamily, Protocol, RawProtocol, SocketType, netlink};
use serde_json::json;

use crate::cli::ConfinedArguments;
use crate::failure::{Failure, Or};

/// Confines itself and tries.
///
/// # Errors
/// No such role or attempt, or an argument that does not fit.
#[expect(clippy::print_stdout, reason = "the outcome is the command's result")]
pub(crate) fn run(arguments: &ConfinedArguments) -> Result<(), Failure> {
    let trying = attempted(&arguments.attempt, arguments.argument.as_deref())?;
    let confinement = enter(&arguments.role, &arguments.data_dir)?;
    let outcome = trying();
    let (verdict, error) = match &outcome {
        Ok(()) => ("done", None),
        Err(errno) if REFUSALS.contains(errno) => ("refused", Some(name(*errno))),
        Err(errno) => ("failed", Some(name(*errno))),
    };
    let line = json!({"role": arguments.role, "attempt": arguments.attempt, "argument": arguments.argument,
        "confinement": confinement, "outcome": verdict, "error": error});
    println!("{line}");
    Ok(())
}

type Trying = Box<dyn FnOnce() -> Result<(), Errno>>;

fn attempted(attempt: &str, argument: Option<&str>) -> Result<Trying, Failure> {
    let needed = || argument.ok_or_else(|| Failure::Misused(format!("{attempt} needs an argument")));
    let path = || needed().map(PathBuf::from);
    let address = || needed()?.parse::<SocketAddr>().or_misused("read the address");
    let pid = || needed()?.parse::<u32>().or_misused("read the process id");
    Ok(match attempt {
        "status" => Box::new(|| Ok(())),
        "read" => with(path()?, |path| errno(read(path))),
        "write" => with(path()?, |path| errno(write(path))),
        "append" => with(path()?, |path| errno(OpenOptions::new().append(true).open(path).map(drop))),
        "program" => with(path()?, |path| program(path)),
        "connect" => with(address()?, |address| connect(*address)),
        "listen" => with(address()?, |address| listen(*address)),
        "datagram" => socket(AddressFamily::INET, SocketType::DGRAM, None),
        "raw" => socket(AddressFamily::INET, SocketType::RAW, RawProtocol::new(1).map(Protocol::from_raw)),
        "packet" => socket(AddressFamily::PACKET, SocketType::RAW, None),
        "netfilter" => socket(AddressFamily::NETLINK, SocketType::RAW, Some(netlink::NETFILTER)),
        "peek" => with(pid()?, |pid| errno(File::open(format!("/proc/{pid}/mem")).map(drop))),
        "stop" => with(pid()?, |pid| signal(*pid)),
        name => {
            let attempt = attempt::Attempt::named(name);
            let attempt = attempt.ok_or_else(|| Failure::Misused(format!("there is no attempt {name}")))?;
            Box::new(move || attempt.make())
        }
    })
}

fn with<T: 'static>(argument: T, attempt: fn(&T) -> Result<(), Errno>) -> Trying {
    Box::new(move || attempt(&argument))
}

fn enter(role: &str, data: &Path) -> Result<Option<Confinement>, Failure> {
    let confinement = match role {
        "none" => return Ok(None),
        STARTER => postern_confine::enter_calls_alone(postern_sandbox::spawner_calls()),
        SETTLED => {
            let entered = postern_confine::enter_calls_alone(postern_sandbox::spawner_calls());
            postern_confine::leave_files().or_misused("leave the files")?;
            entered
        }
        name => {
            let role = Role::named(name).ok_or_else(|| Failure::Misused(format!("there is no role {name}")))?;
            postern_confine::enter(role, &standard(role, data))
        }
    };
    confinement.or_misused("read the role's list of system calls").map(Some)
}

/// A starter that has started enough.
const SETTLED: &str = "settled";

/// What the role reaches in a data directory of the standard shape.
fn standard(role: Role, data: &Path) -> Reach {
    let perimeter = data.join("perimeter");
    match role {
        Role::Server => Reach::new().keeps(data.join("control")),
        Role::Edge => Reach::new().reads(data.join("edge/cert.pem")).reads(data.join("edge/key.pem")),
        Role::Worker => Reach::new().keeps(perimeter.join("work")).keeps(perimeter.join("keeper")),
        Role::Gateway => {
            let reach = Reach::new().keeps(perimeter.join("gateway")).keeps(perimeter.join("keeper"));
            reach.reads(perimeter.join("tunnel"))
        }
        Role::Custody => Reach::new().keeps(perimeter.join("custody")),
        Role::Audit => Reach::new().keeps(perimeter.join("audit")),
        Role::Connector | Role::Egress => Reach::new(),
    }
}

fn read(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return fs::read_dir(path).map(drop);
    }
    File::open(path)?.read(&mut [0]).map(drop)
}

fn write(directory: &Path) -> io::Result<()> {
    let path = directory.join(format!(".postern-attempt-{}", std::process::id()));
    OpenOptions::new().write(true).create_new(true).open(&path)?;
    fs::remove_file(path)
}

fn program(exe: &Path) -> Result<(), Errno> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| raw(&error))?;
    let program =
        Program { exe: exe.to_owned(), directory: "/".into(), arguments: Vec::new(), environment: Vec::new() };
    match runtime.block_on(program.run(b"")) {
        Err(ProgramError::Run { source, .. }) => Err(raw(&source)),
        Ok(()) | Err(ProgramError::Failed { .. }) => Ok(()),
    }
}

fn connect(address: SocketAddr) -> Result<(), Errno> {
    let socket = rustix::net::socket(family(address), SocketType::STREAM, None)?;
    rustix::net::connect(&socket, &address)
}

fn listen(address: SocketAddr) -> Result<(), Errno> {
    let socket = rustix::net::socket(family(address), SocketType::STREAM, None)?;
    rustix::net::bind(&socket, &address)?;
    rustix::net::listen(&socket, 1)
}

fn family(address: SocketAddr) -> AddressFamily {
    if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 }
}

fn socket(family: AddressFamily, kind: SocketType, protocol: Option<Protocol>) -> Trying {
    Box::new(move || rustix::net::socket(family, kind, protocol).map(drop))
}

fn signal(pid: u32) -> Result<(), Errno> {
    let pid = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw).ok_or(Errno::INVAL)?;
    rustix::process::test_kill_process(pid)
}

fn errno(result: io::Result<()>) -> Result<(), Errno> {
    result.map_err(|error| raw(&error))
}

fn raw(error: &io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::IO)
}

/// The system's name for an error: `EACCES`.
fn name(errno: Errno) -> String {
    let text = format!("{errno:?}");
    NAMES.iter().find(|(known, _)| *known == errno).map_or(text, |(_, name)| (*name).to_owned())
}

const REFUSALS: [Errno; 4] = [Errno::PERM, Errno::ACCESS, Errno::NOSYS, Errno::AFNOSUPPORT];
const NAMES: [(Errno, &str); 11] = [
    (Errno::PERM, "EPERM"),
    (Errno::ACCESS, "EACCES"),
    (Errno::NOSYS, "ENOSYS"),
    (Errno::AFNOSUPPORT, "EAFNOSUPPORT"),
    (Errno::OPNOTSUPP, "EOPNOTSUPP"),
    (Errno::FAULT, "EFAULT"),
    (Errno::INVAL, "EINVAL"),
    (Errno::BADF, "EBADF"),
    (Errno::SRCH, "ESRCH"),
    (Errno::NOENT, "ENOENT"),
    (Errno::CONNREFUSED, "ECONNREFUSED"),
];
