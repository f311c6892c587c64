//! What the tests need from the machine: Debian packages, the official SDK and foreign MCP servers in a Python environment
//! of our own, older SDKs beside it, and the foreign peers that come from npm.

use std::path::{Path, PathBuf};

use crate::run::{Outcome, command, found, is_root, output, root, run};

const SDK: &str = "anthropic==2.12.0";
/// The last of the older generations, which people still run.
const OLDER_SDKS: &[&str] = &["0.125.0", "1.17.0"];
const PYTEST: &str = "pytest==8.4.2";
/// An HTTP parser that shares no code with ours, to read what the egress proxy forwards. The SDK brings one too.
const H11: &str = "h11==0.16.0";
/// The last one for the Python of Debian 12.
const MITMPROXY: &str = "mitmproxy==11.0.2";
/// MCP servers that others wrote, and what puts them behind HTTP.
const MCP_SERVERS: &[&str] = &["mcp-server-git==2026.10.10", "mcp-proxy==0.13.0"];
/// Peers of other protocols that the egress proxy carries, and what the SDK checks a webhook's signature with.
const PEERS: &[&str] = &["websockets==17.4", "grpcio==1.85.3", "standardwebhooks==1.1.0"];

/// Sends the API what its description allows and what it does not.
const SCHEMATHESIS: &str = "schemathesis==4.32.5";

/// Look at TLS listeners from outside, and at what a run leaves behind, with rules that are not ours. Of the last, which is for Python 2,
/// the cases are read.
const CHECKERS: &[&str] = &["sslyze==6.3.1", "detect-secrets==1.5.0", "autobahntestsuite==25.10.1"];

/// A program the tests call, and the Debian package that brings it.
const PROGRAMS: &[(&str, &str)] = &[
    ("bash", "bash"),
    ("curl", "curl"),
    ("git", "git"),
    ("node", "nodejs"),
    ("npm", "npm"),
    ("ip", "iproute2"),
    ("nft", "nftables"),
    ("openssl", "openssl"),
    ("setpriv", "util-linux"),
    ("bwrap", "bubblewrap"),
    ("rg", "ripgrep"),
    ("runc", "runc"),
    ("slowhttptest", "slowhttptest"),
    ("h2load", "nghttp2-client"),
    ("testssl", "testssl.sh"),
    ("stress-ng", "stress-ng"),
];

/// Installs missing Debian packages as root; names them, with the command, when not.
pub(crate) fn packages() -> Outcome {
    let mut missing: Vec<&str> =
        PROGRAMS.iter().filter(|(program, _)| !found(program)).map(|(_, package)| *package).collect();
    if !has_system_venv() {
        missing.push("python3-venv");
    }
    if missing.is_empty() {
        return Ok(());
    }
    if !is_root() {
        return Err(format!("packages are missing; install them with: sudo apt-get install -y {}", missing.join(" ")));
    }
    println!("xtask: installing {}", missing.join(" "));
    run(command("apt-get").args(["update", "-q"]))?;
    run(command("apt-get")
        .env("DEBIAN_FRONTEND", "noninteractive")
        .args(["install", "-y", "-q", "--no-install-recommends"])
        .args(&missing))
}

fn has_system_venv() -> bool {
    output(command("/usr/bin/python3").args(["-c", "import ensurepip, venv; print('ok')"])).is_ok()
}

/// What journeys run with: the Python of `target/venv`, and where foreign peers are.
pub(crate) fn journeys() -> Outcome<(PathBuf, PathBuf)> {
    let python = venv()?;
    older_sdks(&python)?;
    Ok((python, foreign()?))
}

/// The Python of `target/venv`, made and filled when it is not there or holds another SDK version.
pub(crate) fn venv() -> Outcome<PathBuf> {
    let directory = root().join("target/venv");
    let python = directory.join("bin/python");
    let stamp = directory.join("installed");
    let wanted = format!("{SDK} {PYTEST} {H11} {SCHEMATHESIS} {} {}", MCP_SERVERS.join(" "), PEERS.join(" "));
    if std::fs::read_to_string(&stamp).is_ok_and(|installed| installed == wanted) {
        return Ok(python);
    }
    run(command("/usr/bin/python3").args(["-m", "venv", "--clear"]).arg(&directory))?;
    let install = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", SDK, PYTEST, H11, SCHEMATHESIS];
    run(command(&python).args(install).args(MCP_SERVERS).args(PEERS))?;
    std::fs::write(&stamp, wanted).map_err(|cause| format!("write {}: {cause}", stamp.display()))?;
    Ok(python)
}

/// `target/sdks/VERSION` for each older SDK, with all that it needs: whatever puts it on its path has that version.
fn older_sdks(python: &Path) -> Outcome {
    let directory = root().join("target/sdks");
    for version in OLDER_SDKS {
        let at = directory.join(version);
        let stamp = at.join("installed");
        if stamp.is_file() {
            continue;
        }
        let install = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--upgrade", "--target"];
        run(command(python).args(install).arg(&at).arg(format!("anthropic=={version}")))?;
        std::fs::write(&stamp, version).map_err(|cause| format!("write {}: {cause}", stamp.display()))?;
    }
    Ok(())
}

/// `target/checkers`, with tools that examine us, in an environment of its own.
pub(crate) fn checkers() -> Outcome<PathBuf> {
    let directory = root().join("target/checkers");
    let stamp = directory.join("installed");
    let wanted = CHECKERS.join(" ");
    if std::fs::read_to_string(&stamp).is_ok_and(|installed| installed == wanted) {
        return Ok(directory);
    }
    run(command("/usr/bin/python3").args(["-m", "venv", "--clear"]).arg(&directory))?;
    let install = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check"];
    run(command(directory.join("bin/python")).args(install).args(CHECKERS))?;
    std::fs::write(&stamp, wanted).map_err(|cause| format!("write {}: {cause}", stamp.display()))?;
    Ok(directory)
}

/// The other intercepting proxy, for benchmarks, in an environment of its own: it pins versions that the SDK has others of.
pub(crate) fn mitmproxy() -> Outcome<PathBuf> {
    let directory = root().join("target/mitmproxy");
    let program = directory.join("bin/mitmdump");
    if !program.is_file() {
        run(command("/usr/bin/python3").args(["-m", "venv", "--clear"]).arg(&directory))?;
        let install = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", MITMPROXY];
        run(command(directory.join("bin/python")).args(install))?;
    }
    Ok(program)
}

/// `target/foreign`, with what `tests/foreign/package-lock.json` names: a Node.js, MCP servers and the conformance suite.
fn foreign() -> Outcome<PathBuf> {
    let directory = root().join("target/foreign");
    let source = root().join("tests/foreign");
    let stamp = directory.join("installed");
    let read =
        |path: PathBuf| std::fs::read_to_string(&path).map_err(|cause| format!("read {}: {cause}", path.display()));
    let wanted = read(source.join("package-lock.json"))?;
    if std::fs::read_to_string(&stamp).is_ok_and(|installed| installed == wanted) {
        return Ok(directory);
    }
    let wrote = |cause: std::io::Error| format!("write {}: {cause}", directory.display());
    std::fs::create_dir_all(&directory).map_err(wrote)?;
    for name in ["package.json", "package-lock.json"] {
        std::fs::copy(source.join(name), directory.join(name)).map_err(wrote)?;
    }
    run(command("npm").current_dir(&directory).args(["ci", "--no-audit", "--no-fund", "--loglevel", "error"]))?;
    std::fs::write(&stamp, wanted).map_err(wrote)?;
    Ok(directory)
}
